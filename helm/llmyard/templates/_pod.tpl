{{- define "llmyard.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ .Values.podSecurity.runAsUser | int64 }}
runAsGroup: {{ .Values.podSecurity.runAsGroup | int64 }}
fsGroup: {{ .Values.podSecurity.fsGroup | int64 }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "llmyard.securityContext" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* What all pods have in common. */}}
{{- define "llmyard.podCommon" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "llmyard.podSecurityContext" . | nindent 2 }}
{{- end }}

{{/* Where a process may write, and who it is: the user of the pod need not be one of the image. */}}
{{- define "llmyard.homeEnv" -}}
- {name: HOME, value: /workspace}
- {name: USER, value: llmyard}
- {name: LOGNAME, value: llmyard}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
{{- end }}

{{- define "llmyard.homeMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: home, mountPath: /workspace}
{{- end }}

{{- define "llmyard.homeVolumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.scratch.tmpSize }}
- name: home
  emptyDir:
    sizeLimit: {{ .Values.scratch.homeSize }}
{{- end }}

{{/* Ray's token, from a file: environment variables are seen by whoever may look at processes. */}}
{{- define "llmyard.authEnv" -}}
{{- if .Values.auth.enabled }}
- {name: RAY_AUTH_MODE, value: token}
- {name: RAY_AUTH_TOKEN_PATH, value: /var/run/llmyard/ray-auth/auth_token}
{{- end }}
{{- end }}

{{- define "llmyard.authMount" -}}
{{- if .Values.auth.enabled }}
- {name: ray-auth, mountPath: /var/run/llmyard/ray-auth, readOnly: true}
{{- end }}
{{- end }}

{{- define "llmyard.authVolume" -}}
{{- if .Values.auth.enabled }}
- name: ray-auth
  secret:
    secretName: {{ .Values.auth.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{/* Environment of a Ray container. Takes root, workload, role and, of a worker, pool. */}}
{{- define "llmyard.rayEnv" -}}
{{- $values := .root.Values -}}
{{- $isWorker := eq .role "worker" -}}
{{- include "llmyard.homeEnv" . }}
{{- include "llmyard.authEnv" .root }}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
{{- /* What a node that is told to go may take to hand its work over; the rest of the time is for ending. */}}
- {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: {{ sub (.workload.spec.terminationGracePeriodSeconds | int64) 15 | quote }}}
- {name: RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S, value: "30"}
{{- if eq .workload.kind "endpoint" }}
{{- with .workload.spec.haproxy }}
{{- if .enabled }}
{{- /* The program mends what Ray leaves open, in Ray's own folder below /tmp, and becomes HAProxy. */}}
- {name: RAY_SERVE_ENABLE_HA_PROXY, value: "1"}
- {name: RAY_SERVE_HAPROXY_BINARY_PATH, value: {{ .program }}}
- {name: RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S, value: "90"}
{{- end }}
{{- end }}
{{- end }}
{{- with include "llmyard.storage" .root }}
- {name: LLMYARD_STORAGE, value: {{ . | quote }}}
{{- end }}
- {name: LLMYARD_CACHE, value: {{ ternary "/cache" "/tmp/llmyard-cache" $isWorker }}}
- {name: HF_HOME, value: {{ ternary "/cache/huggingface" "/tmp/huggingface" $isWorker }}}
{{- /* A fifth is left for weights: the bound holds for shards. */}}
{{- $gigabytes := ternary $values.weightCache.size $values.scratch.tmpSize $isWorker | trimSuffix "Gi" | int64 }}
- {name: LLMYARD_CACHE_BYTES, value: {{ div (mul $gigabytes 4294967296) 5 | quote }}}
{{- with $values.storage.s3.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with $values.storage.s3.region }}
- {name: AWS_DEFAULT_REGION, value: {{ . | quote }}}
{{- end }}
{{- if $values.storage.s3.credentialsSecret }}
- {name: AWS_SHARED_CREDENTIALS_FILE, value: /var/run/llmyard/s3/credentials}
{{- end }}
- {name: HF_HUB_OFFLINE, value: {{ ternary "1" "0" $values.hub.offline | quote }}}
{{- with $values.hub.endpoint }}
- {name: HF_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- if $values.hub.tokenSecret }}
- {name: HF_TOKEN_PATH, value: /var/run/llmyard/hub/token}
{{- end }}
{{- with $values.mlflow.trackingUri }}
- {name: MLFLOW_TRACKING_URI, value: {{ . | quote }}}
{{- end }}
{{- $own := mergeOverwrite (deepCopy $values.env) (ternary (.pool | default dict).env $values.head.env $isWorker) }}
{{- range $name, $value := $own }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* Mounts of a Ray container; arguments as above. */}}
{{- define "llmyard.rayMounts" -}}
{{- $values := .root.Values -}}
{{- include "llmyard.homeMounts" . }}
{{- include "llmyard.authMount" .root }}
{{- if eq .role "worker" }}
- {name: cache, mountPath: /cache}
{{- end }}
{{- if $values.storage.claim }}
- {name: storage, mountPath: /storage{{ if eq .workload.kind "endpoint" }}, readOnly: true{{ end }}}
{{- end }}
{{- if $values.storage.s3.credentialsSecret }}
- {name: s3, mountPath: /var/run/llmyard/s3, readOnly: true}
{{- end }}
{{- if $values.hub.tokenSecret }}
- {name: hub, mountPath: /var/run/llmyard/hub, readOnly: true}
{{- end }}
{{- if $values.mlflow.credentialsSecret }}
- {name: mlflow, mountPath: /workspace/.mlflow, readOnly: true}
{{- end }}
{{- if eq .workload.kind "endpoint" }}
- {name: api-keys, mountPath: /var/run/llmyard/api-keys, readOnly: true}
{{- else if eq .role "head" }}
- {name: jobs, mountPath: /etc/llmyard/jobs, readOnly: true}
{{- end }}
{{- range $index, $mount := $values.secretMounts }}
- {name: secret-{{ $index }}, mountPath: {{ $mount.path }}, readOnly: true}
{{- end }}
{{- end }}

{{/* Volumes of a Ray pod; arguments as above. */}}
{{- define "llmyard.rayVolumes" -}}
{{- $values := .root.Values -}}
{{- include "llmyard.homeVolumes" .root }}
{{- include "llmyard.authVolume" .root }}
{{- if eq .role "worker" }}
{{ include "llmyard.cacheVolume" .root }}
{{- end }}
{{- if $values.storage.claim }}
- name: storage
  persistentVolumeClaim:
    claimName: {{ $values.storage.claim }}
    {{- if eq .workload.kind "endpoint" }}
    readOnly: true
    {{- end }}
{{- end }}
{{- $secrets := dict "s3" $values.storage.s3.credentialsSecret "hub" $values.hub.tokenSecret "mlflow" $values.mlflow.credentialsSecret }}
{{- if eq .workload.kind "endpoint" }}
{{- $_ := set $secrets "api-keys" $values.apiKeys.existingSecret }}
{{- else if eq .role "head" }}
- name: jobs
  configMap:
    name: {{ include "llmyard.fullname" .root }}-jobs
{{- end }}
{{- range $index, $mount := $values.secretMounts }}
{{- $_ := set $secrets (printf "secret-%d" $index) $mount.secret }}
{{- end }}
{{- range $name, $secret := $secrets }}
{{- if $secret }}
- name: {{ $name }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- if and (eq .role "head") .workload.spec.autoscaling }}
{{ include "llmyard.tokenVolume" . }}
{{- end }}
{{- end }}

{{- define "llmyard.cacheVolume" -}}
{{- $cache := .Values.weightCache -}}
- name: cache
{{- if eq $cache.type "emptyDir" }}
  emptyDir:
    sizeLimit: {{ $cache.size }}
{{- else if eq $cache.type "ephemeral" }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $cache.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ $cache.size }}
{{- else }}
  persistentVolumeClaim:
    claimName: {{ $cache.claim }}
{{- end }}
{{- end }}

{{/* The right to call the API server, for the autoscaler's container and no other one of the pod. */}}
{{- define "llmyard.tokenVolume" -}}
- name: autoscaler-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]
{{- end }}

{{/* Local disk that a Ray container may need, in Gi: its scratch volumes, and some for what is written elsewhere. */}}
{{- define "llmyard.disk" -}}
{{- $values := .root.Values -}}
{{- $cache := ternary $values.weightCache.size "0Gi" (and (eq .role "worker") (eq $values.weightCache.type "emptyDir")) -}}
{{- $sum := 2 -}}
{{- range list $values.scratch.tmpSize $values.scratch.homeSize $cache -}}
{{- $sum = add $sum (trimSuffix "Gi" . | int64) -}}
{{- end -}}
{{- $sum }}Gi
{{- end }}

{{/* Requests equal limits: what Ray believes to have is then there. Takes cpu, memory, disk and, maybe, more (a dict). */}}
{{- define "llmyard.resources" -}}
{{- $sizes := dict "cpu" (toString .cpu) "memory" .memory "ephemeral-storage" .disk | merge (.more | default dict) -}}
resources:
  requests:
    {{- toYaml $sizes | nindent 4 }}
  limits:
    {{- toYaml $sizes | nindent 4 }}
{{- end }}
