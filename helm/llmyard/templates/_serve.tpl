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
      limits:
        max_body_bytes: {{ $spec.maxBodyBytes | int64 }}
        max_new_tokens: {{ $spec.maxNewTokens | int64 }}
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
