{{/* A RayClusterSpec. Takes root and workload. */}}
{{- define "llmyard.rayClusterSpec" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $workload := .workload -}}
rayVersion: {{ $values.rayVersion | quote }}
{{- if $values.auth.enabled }}
authOptions:
  mode: token
  secretName: {{ $values.auth.existingSecret }}
{{- end }}
enableInTreeAutoscaling: {{ $workload.spec.autoscaling }}
{{- if $workload.spec.autoscaling }}
autoscalerOptions:
  {{- include "llmyard.autoscalerOptions" $root | nindent 2 }}
{{- end }}
{{- if and $values.gcsFaultTolerance.enabled (ne $workload.kind "job") }}
gcsFaultToleranceOptions:
  {{- include "llmyard.gcsFaultTolerance" $root | nindent 2 }}
{{- end }}
headGroupSpec:
  serviceType: ClusterIP
  rayStartParams:
    {{- toYaml $values.head.rayStartParams | nindent 4 }}
  {{- with $values.head.rayLabels }}
  labels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  template:
    {{- include "llmyard.headTemplate" . | nindent 4 }}
workerGroupSpecs:
  {{- range $name, $size := $workload.spec.workers }}
  {{- $pool := include "llmyard.pool" (dict "root" $root "name" $name) | fromJson }}
  - groupName: {{ $name }}
    replicas: {{ $size.minReplicas | int64 }}
    minReplicas: {{ $size.minReplicas | int64 }}
    maxReplicas: {{ $size.maxReplicas | int64 }}
    {{- /* KubeRay refuses these two without its autoscaler. */}}
    {{- if and $workload.spec.autoscaling $pool.idleTimeoutSeconds }}
    idleTimeoutSeconds: {{ $pool.idleTimeoutSeconds | int64 }}
    {{- end }}
    {{- if and $workload.spec.autoscaling $pool.priority }}
    priority: {{ $pool.priority | int64 }}
    {{- end }}
    rayStartParams:
      {{- toYaml $pool.rayStartParams | nindent 6 }}
    {{- with $pool.rayResources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $pool.rayLabels }}
    labels:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    template:
      {{- include "llmyard.workerTemplate" (dict "root" $root "workload" $workload "pool" $pool) | nindent 6 }}
  {{- end }}
{{- end }}

{{- define "llmyard.autoscalerOptions" -}}
version: v2
idleTimeoutSeconds: {{ .Values.autoscaler.idleTimeoutSeconds | int64 }}
upscalingMode: {{ .Values.autoscaler.upscalingMode }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{ include "llmyard.resources" (dict "cpu" .Values.autoscaler.cpu "memory" .Values.autoscaler.memory "disk" "1Gi") }}
securityContext:
  {{- include "llmyard.securityContext" . | nindent 2 }}
env:
  {{- include "llmyard.homeEnv" . | nindent 2 }}
volumeMounts:
  {{- include "llmyard.homeMounts" . | nindent 2 }}
  - {name: autoscaler-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{- define "llmyard.gcsFaultTolerance" -}}
{{- $redis := .Values.gcsFaultTolerance -}}
backend: redis
redisAddress: {{ $redis.redisAddress | quote }}
{{- with $redis.redisUsername }}
redisUsername:
  value: {{ . | quote }}
{{- end }}
redisPassword:
  valueFrom:
    secretKeyRef:
      name: {{ $redis.passwordSecret.name }}
      key: {{ $redis.passwordSecret.key }}
{{- end }}

{{- define "llmyard.headTemplate" -}}
{{- $root := .root -}}
{{- $head := .root.Values.head -}}
{{- $arguments := dict "root" .root "workload" .workload "role" "head" -}}
metadata:
  labels:
    {{- include "llmyard.podLabels" . | nindent 4 }}
spec:
  {{- include "llmyard.podCommon" $root | nindent 2 }}
  serviceAccountName: {{ include "llmyard.fullname" $root }}-head
  terminationGracePeriodSeconds: {{ .workload.spec.terminationGracePeriodSeconds | int64 }}
  {{- include "llmyard.placement" $head | nindent 2 }}
  containers:
    - name: ray-head
      image: {{ include "llmyard.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      securityContext:
        {{- include "llmyard.securityContext" $root | nindent 8 }}
      ports:
        - {name: gcs-server, containerPort: 6379}
        - {name: client, containerPort: 10001}
        - {name: dashboard, containerPort: 8265}
        {{- if eq .workload.kind "endpoint" }}
        - {name: serve, containerPort: 8000}
        {{- end }}
        - {name: metrics, containerPort: 8080}
        - {name: as-metrics, containerPort: 44217}
        - {name: dash-metrics, containerPort: 44227}
      env:
        {{- include "llmyard.rayEnv" $arguments | nindent 8 }}
      {{- include "llmyard.resources" (dict "cpu" $head.cpu "memory" $head.memory "disk" (include "llmyard.disk" $arguments)) | nindent 6 }}
      {{- include "llmyard.nodeProbe" (dict "kind" "livenessProbe" "failures" 12) | nindent 6 }}
      {{- include "llmyard.nodeProbe" (dict "kind" "readinessProbe" "failures" 10) | nindent 6 }}
      volumeMounts:
        {{- include "llmyard.rayMounts" $arguments | nindent 8 }}
  volumes:
    {{- include "llmyard.rayVolumes" $arguments | nindent 4 }}
{{- end }}

{{- define "llmyard.workerTemplate" -}}
{{- $root := .root -}}
{{- $pool := .pool -}}
{{- $arguments := dict "root" .root "workload" .workload "role" "worker" "pool" .pool -}}
metadata:
  labels:
    {{- include "llmyard.podLabels" . | nindent 4 }}
spec:
  {{- include "llmyard.podCommon" $root | nindent 2 }}
  serviceAccountName: {{ include "llmyard.fullname" $root }}-worker
  terminationGracePeriodSeconds: {{ .workload.spec.terminationGracePeriodSeconds | int64 }}
  {{- include "llmyard.placement" $pool | nindent 2 }}
  {{- with $pool.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pool.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  containers:
    - name: ray-worker
      image: {{ include "llmyard.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      securityContext:
        {{- include "llmyard.securityContext" $root | nindent 8 }}
      ports:
        - {name: metrics, containerPort: 8080}
        {{- if eq .workload.kind "endpoint" }}
        - {name: serve, containerPort: 8000}
        {{- end }}
      env:
        {{- include "llmyard.rayEnv" $arguments | nindent 8 }}
      {{- $gpus := ternary (dict $pool.gpuResource ($pool.gpus | int64 | toString)) dict (gt ($pool.gpus | int64) 0) }}
      {{- include "llmyard.resources" (dict "cpu" ($pool.cpu | int64) "memory" $pool.memory "more" $gpus
          "disk" (include "llmyard.disk" $arguments)) | nindent 6 }}
      {{- include "llmyard.nodeProbe" (dict "kind" "livenessProbe" "failures" 12) | nindent 6 }}
      {{- if eq .workload.kind "endpoint" }}
      {{- /* Not KubeRay's own: it calls wget. A worker without a replica has no proxy, and gets no traffic. */}}
      readinessProbe:
        httpGet: {path: /-/healthz, port: serve}
        initialDelaySeconds: 10
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 1
      {{- else }}
      {{- include "llmyard.nodeProbe" (dict "kind" "readinessProbe" "failures" 10) | nindent 6 }}
      {{- end }}
      volumeMounts:
        {{- include "llmyard.rayMounts" $arguments | nindent 8 }}
  volumes:
    {{- include "llmyard.rayVolumes" $arguments | nindent 4 }}
{{- end }}

{{/* Asks the agent of a node for its raylet and, on a head, the GCS; open without a token. */}}
{{- define "llmyard.nodeProbe" -}}
{{ .kind }}:
  httpGet: {path: /api/healthz, port: 52365}
  initialDelaySeconds: {{ ternary 60 10 (eq .kind "livenessProbe") }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: {{ .failures }}
{{- end }}

{{/* Where pods of a head or pool may run. */}}
{{- define "llmyard.placement" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with index $ $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
