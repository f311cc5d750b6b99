{{/* What an option, or an environment variable, is set by, if it is not to be given here. */}}
{{- define "llmyard.managed" -}}
RAY_REDIS_ADDRESS: gcsFaultTolerance.redisAddress
REDIS_PASSWORD: gcsFaultTolerance.passwordSecret
REDIS_USERNAME: gcsFaultTolerance.redisUsername
RAY_enable_autoscaler_v2: autoscaling of the workload
RAY_AUTH_MODE: auth.enabled
RAY_AUTH_TOKEN: auth.existingSecret
RAY_AUTH_TOKEN_PATH: auth.existingSecret
RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S: terminationGracePeriodSeconds of the workload
LLMYARD_STORAGE: storage.uri
LLMYARD_CACHE: weightCache
LLMYARD_CACHE_BYTES: weightCache.size
AWS_ENDPOINT_URL: storage.s3.endpoint
AWS_DEFAULT_REGION: storage.s3.region
AWS_SHARED_CREDENTIALS_FILE: storage.s3.credentialsSecret
AWS_SECRET_ACCESS_KEY: storage.s3.credentialsSecret
HF_ENDPOINT: hub.endpoint
HF_TOKEN: hub.tokenSecret
HF_TOKEN_PATH: hub.tokenSecret
HF_HUB_OFFLINE: hub.offline
MLFLOW_TRACKING_URI: mlflow.trackingUri
MLFLOW_TRACKING_PASSWORD: mlflow.credentialsSecret
RAY_ADDRESS: KubeRay
RAY_PORT: KubeRay
RAY_CLUSTER_NAME: KubeRay
RAY_CLUSTER_NAMESPACE: KubeRay
KUBERAY_GEN_RAY_START_CMD: KubeRay
HOME: the chart
USER: the chart
LOGNAME: the chart
HF_HOME: the chart
PYTHONDONTWRITEBYTECODE: the chart
RAY_USAGE_STATS_ENABLED: the chart
RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S: the chart
RAY_SERVE_ENABLE_HA_PROXY: haproxy.enabled of the endpoint
RAY_SERVE_HAPROXY_BINARY_PATH: haproxy.program of the endpoint
RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S: the chart
{{- end }}

{{- define "llmyard.managedOptions" -}}
labels: rayLabels
redis-password: gcsFaultTolerance.passwordSecret
redis-username: gcsFaultTolerance.redisUsername
address: KubeRay
block: KubeRay
no-monitor: KubeRay
port: the chart
dashboard-port: the chart
ray-client-server-port: the chart
metrics-export-port: the chart
dashboard-agent-listen-port: the chart
{{- end }}

{{- define "llmyard.managedMetadata" -}}
app.kubernetes.io/name: nameOverride
app.kubernetes.io/instance: the name of the release
app.kubernetes.io/component: the chart
llmyard/workload: the chart
kueue.x-k8s.io/queue-name: queue of the workload
kueue.x-k8s.io/elastic-job: kueue.elastic
ray.io/cluster: KubeRay
ray.io/group: KubeRay
ray.io/node-type: KubeRay
ray.io/serve: KubeRay
ray.io/ft-enabled: gcsFaultTolerance.enabled
ray.io/external-storage-namespace: KubeRay
ray.io/initializing-timeout: initializingTimeout of the endpoint
ray.io/overwrite-container-cmd: KubeRay
{{- end }}

{{/* Takes path, of (a dict) and by, the list of what is managed. */}}
{{- define "llmyard.problems.managed" -}}
{{- $managed := include .by . | fromYaml -}}
{{- $path := .path -}}
{{- range $name, $_ := .of }}
{{- with index $managed $name }}
{{ $path }}.{{ $name }} is set by {{ . }}: leave it out
{{- end }}
{{- end }}
{{- end }}

{{/* Of heads and pools, whether or not they are in use. */}}
{{- define "llmyard.problems.pools" -}}
{{- $root := . -}}
{{- include "llmyard.problems.managed" (dict "by" "llmyard.managedMetadata" "path" "labels" "of" .Values.labels) }}
{{- include "llmyard.problems.managed" (dict "by" "llmyard.managedMetadata" "path" "annotations" "of" .Values.annotations) }}
{{- include "llmyard.problems.managed" (dict "by" "llmyard.managed" "path" "env" "of" .Values.env) }}
{{- include "llmyard.problems.managed" (dict "by" "llmyard.managed" "path" "head.env" "of" .Values.head.env) }}
{{- include "llmyard.problems.managed" (dict "by" "llmyard.managedOptions" "path" "head.rayStartParams" "of" .Values.head.rayStartParams) }}
{{- include "llmyard.problems.managed" (dict "by" "llmyard.managed" "path" "poolDefaults.env" "of" .Values.poolDefaults.env) }}
{{- include "llmyard.problems.managed" (dict "by" "llmyard.managedOptions" "path" "poolDefaults.rayStartParams" "of" .Values.poolDefaults.rayStartParams) }}
{{- range $name, $given := .Values.pools }}
{{- $path := printf "pools.%s" $name }}
{{- $given = $given | default dict }}
{{- include "llmyard.problems.managed" (dict "by" "llmyard.managed" "path" (printf "%s.env" $path) "of" ($given.env | default dict)) }}
{{- include "llmyard.problems.managed" (dict "by" "llmyard.managedOptions" "path" (printf "%s.rayStartParams" $path) "of" ($given.rayStartParams | default dict)) }}
{{- $pool := include "llmyard.pool" (dict "root" $root "name" $name) | fromJson }}
{{- range list "num-cpus" "num-gpus" "memory" "resources" }}
{{- if and $pool.rayResources (index $pool.rayStartParams .) }}
{{ $path }}.rayStartParams.{{ . }} is set, and so is {{ $path }}.rayResources: say what Ray reckons with in one of them
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Of the sizes of worker groups. Takes root and workload. */}}
{{- define "llmyard.problems.workers" -}}
{{- $workload := .workload -}}
{{- $values := .root.Values -}}
{{- $path := $workload.path -}}
{{- $most := 0 -}}
{{- range $name, $size := $workload.spec.workers }}
{{- if not (hasKey $values.pools $name) }}
{{ $path }}.workers.{{ $name }}: there is no pool {{ $name | quote }}; there is: {{ keys $values.pools | sortAlpha | join ", " }}
{{- end }}
{{- if gt ($size.minReplicas | int64) ($size.maxReplicas | int64) }}
{{ $path }}.workers.{{ $name }}.minReplicas is {{ $size.minReplicas }}, above maxReplicas {{ $size.maxReplicas }}: lower it
{{- else if and (not $workload.spec.autoscaling) (ne ($size.minReplicas | int64) ($size.maxReplicas | int64)) }}
{{ $path }}.workers.{{ $name }}: minReplicas {{ $size.minReplicas }} and maxReplicas {{ $size.maxReplicas }} differ, and {{ $path }}.autoscaling is false: nothing would start the others; make them equal
{{- end }}
{{- $most = add $most ($size.maxReplicas | int64) -}}
{{- end }}
{{- if eq (int64 $most) 0 }}
{{ $path }}.workers has no worker, and heads do no work: give a pool and its maxReplicas
{{- end }}
{{- if $workload.spec.queue }}
{{- if gt (len $workload.spec.workers) 7 }}
{{ $path }}.workers names {{ len $workload.spec.workers }} pools, and Kueue admits 7: use fewer, or no queue
{{- end }}
{{- if and $workload.spec.autoscaling (eq $workload.kind "endpoint") }}
{{ $path }}.autoscaling is true, and Kueue takes no RayService that scales into a queue: set it to false
{{- else if and $workload.spec.autoscaling (not $values.kueue.elastic) }}
{{ $path }}.autoscaling is true, and {{ $path }}.queue is {{ $workload.spec.queue }}: set autoscaling to false, or kueue.elastic to true
{{- end }}
{{- end }}
{{- end }}
