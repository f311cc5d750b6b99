{{/*
What values.schema.json cannot say: what does not go together, and what KubeRay would refuse when it is too late. Each
`problems` template writes a line for each fault: the value, what it is, and what to do.
*/}}
{{- define "llmyard.validate" -}}
{{- $problems := list -}}
{{- range list "release" "storage" "network" "kinds" "pools" "workloads" -}}
{{- range include (printf "llmyard.problems.%s" .) $ | splitList "\n" -}}
{{- with trim . -}}
{{- $problems = append $problems (printf "- %s" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $problems -}}
{{- fail (printf "%d of the values cannot be used:\n%s" (len $problems) (join "\n" $problems)) -}}
{{- end -}}
{{- end }}

{{- define "llmyard.problems.release" -}}
{{- $fullname := include "llmyard.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $fullname) }}
fullnameOverride, nameOverride or the release: objects would be called {{ $fullname | quote }}, which must begin with a letter and hold lower-case letters, digits and "-" only: set fullnameOverride
{{- end }}
{{- if not (semverCompare ">=2.60.0" .Values.rayVersion) }}
rayVersion is {{ .Values.rayVersion }}, and token authentication, priorities of pools and llmyard need 2.60.0 or later: use an image with it
{{- end }}
{{- if and .Values.image.requireDigest (not .Values.image.digest) }}
image.digest is empty, and image.requireDigest asks for one: give the digest of the image (sha256:...)
{{- end }}
{{- $workloads := include "llmyard.rayWorkloads" . | fromJsonArray -}}
{{- if and .Values.auth.enabled $workloads (not .Values.auth.existingSecret) }}
auth.existingSecret is empty: make a Secret with a token under the key auth_token, and name it
{{- end }}
{{- if and .Values.endpoints (not .Values.apiKeys.existingSecret) }}
apiKeys.existingSecret is empty, and endpoints need API keys: make a Secret with their SHA-256 hashes under the key hashes, and name it
{{- end }}
{{- if .Values.gcsFaultTolerance.enabled }}
{{- if not .Values.gcsFaultTolerance.redisAddress }}
gcsFaultTolerance.redisAddress is empty: give HOST:PORT of Redis
{{- end }}
{{- if not .Values.gcsFaultTolerance.passwordSecret.name }}
gcsFaultTolerance.passwordSecret.name is empty: name a Secret with the password of Redis
{{- end }}
{{- end }}
{{- if and .Values.monitoring.dashboards.enabled (not (.Files.Glob "dashboards/*.json")) }}
monitoring.dashboards.enabled is true, and this chart holds no dashboards: package it with helm/package.py, which generates them
{{- end }}
{{- end }}

{{- define "llmyard.problems.storage" -}}
{{- $storage := .Values.storage -}}
{{- $uri := include "llmyard.storage" . -}}
{{- $needs := list -}}
{{- range include "llmyard.workloads" . | fromJsonArray -}}
{{- if eq .kind "job" -}}
{{- $needs = append $needs .path -}}
{{- else if eq .kind "endpoint" -}}
{{- $models := .spec.models -}}
{{- range .spec.canaries -}}{{- $models = append $models .model -}}{{- end -}}
{{- range $model := $models -}}
{{- if not (hasPrefix "hub:" $model) -}}
{{- $needs = append $needs $model -}}
{{- end -}}
{{- end -}}
{{- with .spec.index -}}
{{- $needs = append $needs . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $needs (not $uri) }}
storage.uri and storage.claim are empty, and {{ first $needs }} needs a storage: give a URI, or a claim
{{- end }}
{{- if and (hasPrefix "/" $uri) (not $storage.claim) }}
storage.uri is {{ $uri }}, a folder, and storage.claim is empty: name a PersistentVolumeClaim, or give s3://BUCKET/PREFIX
{{- end }}
{{- if and $storage.claim (hasPrefix "/" $uri) (not (regexMatch "^/storage(/|$)" $uri)) }}
storage.uri is {{ $uri }}, and storage.claim is mounted at /storage: give a folder below /storage
{{- end }}
{{- if and $storage.claim (contains "://" $uri) }}
storage.uri is {{ $uri }}, and storage.claim is {{ $storage.claim }}: give one of them
{{- end }}
{{- $cache := .Values.weightCache -}}
{{- if and (eq $cache.type "claim") (not $cache.claim) }}
weightCache.claim is empty, and weightCache.type is claim: name a PersistentVolumeClaim
{{- end }}
{{- if and (ne $cache.type "claim") $cache.claim }}
weightCache.claim is {{ $cache.claim }}, and weightCache.type is {{ $cache.type }}: set the type to claim, or leave the claim out
{{- end }}
{{- if and (ne $cache.type "ephemeral") $cache.storageClass }}
weightCache.storageClass is {{ $cache.storageClass }}, and weightCache.type is {{ $cache.type }}: set the type to ephemeral, or leave the class out
{{- end }}
{{- if and .Values.mlflow.credentialsSecret (not .Values.mlflow.trackingUri) }}
mlflow.credentialsSecret is {{ .Values.mlflow.credentialsSecret }}, and mlflow.trackingUri is empty: give the URI of the server
{{- end }}
{{- $paths := dict -}}
{{- range $index, $mount := .Values.secretMounts }}
{{- $path := trimSuffix "/" $mount.path -}}
{{- if or (hasKey $paths $path) (regexMatch "^/(tmp|workspace|cache|storage|dev|proc|sys|etc/llmyard|var/run/llmyard|var/run/secrets)(/|$)" $path) }}
secretMounts[{{ $index }}].path is {{ $mount.path }}, which is in use: choose another path
{{- end }}
{{- $_ := set $paths $path true -}}
{{- end }}
{{- end }}

{{- define "llmyard.problems.network" -}}
{{- $gateway := .Values.gateway -}}
{{- if $gateway.enabled }}
{{- if not $gateway.className }}
gateway.className is empty: name a GatewayClass
{{- end }}
{{- if not $gateway.tlsSecret }}
gateway.tlsSecret is empty: name a Secret of type kubernetes.io/tls
{{- end }}
{{- end }}
{{- if .Values.networkPolicy.enabled }}
{{- $policy := .Values.networkPolicy -}}
{{- $open := list -}}
{{- $hub := "" -}}
{{- range include "llmyard.workloads" . | fromJsonArray -}}
{{- if eq .kind "endpoint" -}}
{{- if or .spec.ingress.enabled .spec.httpRoute.enabled (eq .spec.upgrade.type "NewClusterWithIncrementalUpgrade") -}}
{{- $open = append $open .path -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $open (not $policy.clients) }}
networkPolicy.clients is empty, and {{ first $open }} is reached through an Ingress or Gateway: name its pods
{{- end }}
{{- if and .Values.monitoring.podMonitor.enabled (not $policy.monitoring) }}
networkPolicy.monitoring is empty, and monitoring.podMonitor is enabled: name the pods of Prometheus
{{- end }}
{{- if and (contains "://" .Values.storage.uri) (not $policy.egress.storage) }}
networkPolicy.egress.storage is missing, and storage.uri is {{ .Values.storage.uri }}: give its addresses and ports
{{- end }}
{{- if and .Values.mlflow.trackingUri (not $policy.egress.mlflow) }}
networkPolicy.egress.mlflow is missing, and mlflow.trackingUri is {{ .Values.mlflow.trackingUri }}: give its pods or addresses, and ports
{{- end }}
{{- if and .Values.gcsFaultTolerance.enabled (not $policy.egress.redis) }}
networkPolicy.egress.redis is missing, and gcsFaultTolerance is enabled: give the pods or addresses of Redis, and ports
{{- end }}
{{- if and (not .Values.hub.offline) (not $policy.egress.hub) }}
networkPolicy.egress.hub is missing, and hub.offline is false: give the addresses and ports of the hub
{{- end }}
{{- end }}
{{- end }}
