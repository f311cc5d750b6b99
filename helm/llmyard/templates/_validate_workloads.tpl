{{/* Names, which KubeRay makes those of clusters, services and pods of: the API server would cut or refuse them. */}}
{{- define "llmyard.problems.kinds" -}}
{{- range include "llmyard.workloads" . | fromJsonArray }}
{{- $most := ternary 53 47 (eq .kind "cluster") }}
{{- if gt (len .object) $most }}
{{ .path }}: its object would be called {{ .object }}, {{ len .object }} characters, and KubeRay takes {{ $most }}: shorten the name, or set fullnameOverride
{{- end }}
{{- if and (eq .kind "endpoint") (eq .name "cluster") }}
{{ .path }}: its services would have the names of the shared cluster's: choose another name
{{- end }}
{{- end }}
{{- end }}

{{- define "llmyard.problems.workloads" -}}
{{- range $workload := include "llmyard.workloads" . | fromJsonArray }}
{{- $arguments := dict "root" $ "workload" $workload }}
{{- if eq $workload.kind "endpoint" }}
{{- include "llmyard.problems.workers" $arguments }}
{{- include "llmyard.problems.endpoint" $arguments }}
{{- include "llmyard.problems.upgrade" $arguments }}
{{- include "llmyard.problems.routes" $arguments }}
{{- else if eq $workload.kind "cluster" }}
{{- include "llmyard.problems.workers" $arguments }}
{{- else }}
{{- if not $workload.spec.shared }}
{{- include "llmyard.problems.workers" $arguments }}
{{- end }}
{{- include "llmyard.problems.job" $arguments }}
{{- include "llmyard.problems.deletion" $arguments }}
{{- end }}
{{- end }}
{{- end }}

{{- define "llmyard.problems.endpoint" -}}
{{- $spec := .workload.spec -}}
{{- $path := .workload.path -}}
{{- $values := .root.Values -}}
{{- $replica := $spec.replica -}}
{{- if not $spec.models }}
{{ $path }}.models is empty: name at least one model
{{- end }}
{{- $named := list -}}
{{- range $spec.models -}}
{{- $named = append $named (dict "field" "models" "name" .) -}}
{{- end -}}
{{- range $index, $canary := $spec.canaries -}}
{{- $named = append $named (dict "field" (printf "canaries[%d].model" $index) "name" $canary.model) -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $named }}
{{- $field := .field -}}
{{- with .name }}
{{- if hasKey $seen . }}
{{ $path }}.{{ $field }} has {{ . }}, which {{ index $seen . }} has too: name each model once
{{- end }}
{{- $_ := set $seen . $field -}}
{{- if and (hasPrefix "hub:" .) $values.hub.offline }}
{{ $path }}.{{ $field }} has {{ . }}, and hub.offline is true: set it to false, or take the model into the storage
{{- end }}
{{- if and (hasPrefix "models:/" .) (not $values.mlflow.trackingUri) }}
{{ $path }}.{{ $field }} has {{ . }}, and mlflow.trackingUri is empty: give the URI of the server that knows it
{{- end }}
{{- end }}
{{- end }}
{{- $beside := dict -}}
{{- range $index, $canary := $spec.canaries }}
{{- if hasKey $beside $canary.beside }}
{{ $path }}.canaries[{{ $index }}].beside is {{ $canary.beside }}, as of canaries[{{ index $beside $canary.beside }}]: one at a time can be judged
{{- end }}
{{- $_ := set $beside $canary.beside $index -}}
{{- end }}
{{- if gt ($spec.deadlineSeconds | float64) ($spec.requestTimeoutSeconds | float64) }}
{{ $path }}.deadlineSeconds is {{ $spec.deadlineSeconds }}, above requestTimeoutSeconds {{ $spec.requestTimeoutSeconds }}, at which the proxy gives up: lower it
{{- end }}
{{- if and $spec.harmfulWords.harmless (not $spec.harmfulWords.lists) }}
{{ $path }}.harmfulWords.harmless is given, and lists is empty: give the lists that it makes exceptions from
{{- end }}
{{- if gt ($replica.minReplicas | int64) ($replica.maxReplicas | int64) }}
{{ $path }}.replica.minReplicas is {{ $replica.minReplicas }}, above maxReplicas {{ $replica.maxReplicas }}: lower it
{{- end }}
{{- if gt ($replica.targetOngoingRequests | int64) ($replica.maxOngoingRequests | int64) }}
{{ $path }}.replica.targetOngoingRequests is {{ $replica.targetOngoingRequests }}, above maxOngoingRequests {{ $replica.maxOngoingRequests }}: no replica would ever be added; lower it
{{- end }}
{{- if gt (add 15 ($replica.gracefulShutdownSeconds | int64)) ($spec.terminationGracePeriodSeconds | int64) }}
{{ $path }}.replica.gracefulShutdownSeconds is {{ $replica.gracefulShutdownSeconds }}, and terminationGracePeriodSeconds {{ $spec.terminationGracePeriodSeconds }} ends the pod before: make it 15 s longer or more
{{- end }}
{{- $room := 0 -}}
{{- $fewest := 0 -}}
{{- range $name, $size := $spec.workers -}}
{{- $fewest = add $fewest ($size.minReplicas | int64) -}}
{{- if hasKey $values.pools $name -}}
{{- $pool := include "llmyard.pool" (dict "root" $.root "name" $name) | fromJson -}}
{{- $cpus := $pool.cpu | int64 -}}
{{- with index $pool.rayStartParams "num-cpus" -}}{{- $cpus = int64 . -}}{{- end -}}
{{- with $pool.rayResources.CPU -}}{{- $cpus = int64 . -}}{{- end -}}
{{- $room = add $room (mul ($size.maxReplicas | int64) (div $cpus ($replica.cpus | int64))) -}}
{{- end -}}
{{- end -}}
{{- if lt (int64 $room) ($replica.maxReplicas | int64) }}
{{ $path }}.replica.maxReplicas is {{ $replica.maxReplicas }}, and {{ $path }}.workers has room for {{ $room }} replicas of {{ $replica.cpus }} CPUs: raise maxReplicas of a pool, or ask for less
{{- end }}
{{- if and $spec.minAvailable (ge ($spec.minAvailable | int64) (int64 $fewest)) }}
{{ $path }}.minAvailable is {{ $spec.minAvailable }}, and there may be no more than {{ $fewest }} workers: no node could be drained; raise minReplicas of a pool, or set it to 0
{{- end }}
{{- end }}

{{- define "llmyard.problems.upgrade" -}}
{{- $spec := .workload.spec -}}
{{- $path := .workload.path -}}
{{- $upgrade := $spec.upgrade -}}
{{- if eq $upgrade.type "NewClusterWithIncrementalUpgrade" }}
{{- if not $spec.autoscaling }}
{{ $path }}.autoscaling is false, and {{ $path }}.upgrade.type {{ $upgrade.type }} moves capacity by it: set it to true
{{- end }}
{{- if not $upgrade.gatewayClassName }}
{{ $path }}.upgrade.gatewayClassName is empty, and {{ $path }}.upgrade.type {{ $upgrade.type }} needs a Gateway: name a GatewayClass
{{- end }}
{{- if gt ($upgrade.stepSizePercent | int64) ($upgrade.maxSurgePercent | int64) }}
{{ $path }}.upgrade.stepSizePercent is {{ $upgrade.stepSizePercent }}, above maxSurgePercent {{ $upgrade.maxSurgePercent }}: lower it
{{- end }}
{{- if or $spec.ingress.enabled $spec.httpRoute.enabled }}
{{ $path }}.{{ ternary "ingress" "httpRoute" $spec.ingress.enabled }}.enabled is true, and with {{ $path }}.upgrade.type {{ $upgrade.type }} KubeRay makes a Gateway and an HTTPRoute of its own: set it to false
{{- end }}
{{- end }}
{{- end }}

{{- define "llmyard.problems.routes" -}}
{{- $path := .workload.path -}}
{{- $ingress := .workload.spec.ingress -}}
{{- $route := .workload.spec.httpRoute -}}
{{- if $ingress.enabled }}
{{- range list "host" "tlsSecret" }}
{{- if not (index $ingress .) }}
{{ $path }}.ingress.{{ . }} is empty: an endpoint is reached by TLS only; give it
{{- end }}
{{- end }}
{{- end }}
{{- if $route.enabled }}
{{- if $route.gateway }}
{{- range list "name" "sectionName" }}
{{- if not (index $route.gateway .) }}
{{ $path }}.httpRoute.gateway.{{ . }} is empty: name the Gateway, and its listener with TLS
{{- end }}
{{- end }}
{{- else if not .root.Values.gateway.enabled }}
{{ $path }}.httpRoute.gateway is empty, and gateway.enabled is false: name a Gateway, or let the chart make one
{{- end }}
{{- end }}
{{- end }}
