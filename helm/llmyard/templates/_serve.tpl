{{/* Ray Serve's config of an endpoint. Takes root and workload. */}}
{{- define "llmyard.serveConfig" -}}
{{- $spec := .workload.spec -}}
{{- $replica := .workload.spec.replica -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8000
  request_timeout_s: {{ $spec.requestTimeoutSeconds | int64 }}
applications:
  - name: llmyard
    route_prefix: /
    import_path: llmyard.serving.application:build
    args:
      models:
        {{- toYaml $spec.models | nindent 8 }}
      {{- with include "llmyard.storage" .root }}
      storage: {{ . | quote }}
      {{- end }}
      key_hash_files: [/var/run/llmyard/api-keys/hashes]
      {{- with $spec.index }}
      index: {{ . | quote }}
      {{- end }}
      {{- with $spec.canaries }}
      canaries:
        {{- range $canary := . }}
        - model: {{ $canary.model | quote }}
          beside: {{ $canary.beside | quote }}
          {{- range $ours, $theirs := dict "weight" "weight" "leastRequests" "least_requests" "mostFailing" "most_failing" "mostSlower" "most_slower" }}
          {{- if hasKey $canary $ours }}
          {{ $theirs }}: {{ index $canary $ours }}
          {{- end }}
          {{- end }}
        {{- end }}
      {{- end }}
      limits:
        max_body_bytes: {{ $spec.maxBodyBytes | int64 }}
        body_seconds: {{ $spec.bodySeconds }}
        max_new_tokens: {{ $spec.maxNewTokens | int64 }}
        max_tokens_under_way: {{ $spec.maxTokensUnderWay | int64 }}
        deadline_seconds: {{ $spec.deadlineSeconds }}
        {{- with $spec.harmfulWords }}
        {{- if .lists }}
        harmful_words:
          lists:
            {{- toYaml .lists | nindent 12 }}
          {{- with .harmless }}
          harmless:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          max_density: {{ .maxDensity }}
        {{- end }}
        {{- end }}
      revision: {{ $spec.revision | quote }}
    deployments:
      - name: llmyard
        max_ongoing_requests: {{ $replica.maxOngoingRequests | int64 }}
        max_queued_requests: {{ $replica.maxQueuedRequests | int64 }}
        graceful_shutdown_timeout_s: {{ $replica.gracefulShutdownSeconds | int64 }}
        ray_actor_options:
          num_cpus: {{ $replica.cpus | int64 }}
          {{- if $replica.memoryBytes }}
          memory: {{ $replica.memoryBytes | int64 }}
          {{- end }}
        autoscaling_config:
          min_replicas: {{ $replica.minReplicas | int64 }}
          max_replicas: {{ $replica.maxReplicas | int64 }}
          target_ongoing_requests: {{ $replica.targetOngoingRequests | int64 }}
          upscale_delay_s: {{ $replica.upscaleDelaySeconds | int64 }}
          downscale_delay_s: {{ $replica.downscaleDelaySeconds | int64 }}
{{- end }}

{{/* Labels and annotations by which Kueue takes a workload into a queue; as JSON, empty without one. */}}
{{- define "llmyard.queueLabels" -}}
{{- ternary (dict "kueue.x-k8s.io/queue-name" .workload.spec.queue) dict (ne .workload.spec.queue "") | toJson -}}
{{- end }}

{{- define "llmyard.queueAnnotations" -}}
{{- $elastic := and .workload.spec.queue .workload.spec.autoscaling .root.Values.kueue.elastic -}}
{{- ternary (dict "kueue.x-k8s.io/elastic-job" "true") dict (not (not $elastic)) | toJson -}}
{{- end }}

{{- define "llmyard.managedBy" -}}
{{- if and .workload.spec.queue .root.Values.kueue.managedBy }}
managedBy: {{ .root.Values.kueue.managedBy }}
{{- end }}
{{- end }}
