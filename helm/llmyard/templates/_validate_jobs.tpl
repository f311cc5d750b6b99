{{- define "llmyard.problems.job" -}}
{{- $spec := .workload.spec -}}
{{- $given := .workload.given | default dict -}}
{{- $path := .workload.path -}}
{{- if and (contains "://" .root.Values.storage.uri) (not .root.Values.mlflow.trackingUri) }}
mlflow.trackingUri is empty, and {{ $path }} records its runs on a remote storage, {{ .root.Values.storage.uri }}: give the URI of a tracking server
{{- end }}
{{- if not (trim $spec.job) }}
{{ $path }}.job is empty: give the text of a job file
{{- else }}
{{- $job := fromYaml $spec.job -}}
{{- if hasKey $job "Error" }}
{{ $path }}.job is no YAML mapping: {{ $job.Error | toString | replace "\n" " " }}; see `llmyard check`
{{- else if not (kindIs "string" $job.kind) }}
{{ $path }}.job has no `kind`: give the text of a job file; see `llmyard check`
{{- else if not $spec.shared }}
{{- $last := $job -}}
{{- with $job.stages -}}{{- $last = last . -}}{{- end -}}
{{- if eq (toString $last.kind) "deploy" }}
{{ $path }}.job ends in kind deploy, and its cluster ends with it: `llmyard deploy --kubernetes` makes `endpoints` of it; or set {{ $path }}.shared to true
{{- end }}
{{- end }}
{{- end }}
{{- if $spec.shared }}
{{- if not .root.Values.cluster.enabled }}
{{ $path }}.shared is true, and cluster.enabled is false: there is no shared cluster; set one of them
{{- end }}
{{- range list "workers" "autoscaling" "backoffLimit" "shutdownAfterJobFinishes" "ttlSecondsAfterFinished" "terminationGracePeriodSeconds" "queue" "preRunningDeadlineSeconds" }}
{{- if hasKey $given . }}
{{ $path }}.{{ . }} is given, and {{ $path }}.shared is true: it is of a cluster of the job's own; leave it out
{{- end }}
{{- end }}
{{- else if and (not $spec.shutdownAfterJobFinishes) (gt ($given.ttlSecondsAfterFinished | default 0 | int64) 0) }}
{{ $path }}.ttlSecondsAfterFinished is {{ $given.ttlSecondsAfterFinished }}, and shutdownAfterJobFinishes is false: the cluster would stay; set one of them
{{- end }}
{{- if and (eq $spec.submissionMode "HTTPMode") (hasKey $given "submitterBackoffLimit") }}
{{ $path }}.submitterBackoffLimit is given, and submissionMode HTTPMode has no submitter: leave it out
{{- end }}
{{- if and $spec.queue (not $spec.shared) (not $spec.shutdownAfterJobFinishes) }}
{{ $path }}.shutdownAfterJobFinishes is false, and Kueue's queue {{ $spec.queue }} needs it: set it to true
{{- end }}
{{- end }}

{{/* KubeRay's rules for deletionRules. */}}
{{- define "llmyard.problems.deletion" -}}
{{- $spec := .workload.spec -}}
{{- $path := printf "%s.deletionRules" .workload.path -}}
{{- if and $spec.deletionRules $spec.shutdownAfterJobFinishes (not $spec.shared) }}
{{ $path }} is given, and shutdownAfterJobFinishes is true: set that to false
{{- end }}
{{- $seen := dict -}}
{{- range $index, $rule := $spec.deletionRules }}
{{- $at := printf "%s[%d]" $path $index -}}
{{- $status := $rule.condition.jobStatus -}}
{{- $deployment := $rule.condition.jobDeploymentStatus -}}
{{- if and $status $deployment }}
{{ $at }}.condition has jobStatus and jobDeploymentStatus: give one of them
{{- else if not (or $status $deployment) }}
{{ $at }}.condition has neither jobStatus nor jobDeploymentStatus: give one of them
{{- else }}
{{- $when := ternary (printf "jobStatus %s" $status) (printf "jobDeploymentStatus %s" $deployment) (not (not $status)) -}}
{{- $key := printf "%s %s" $when $rule.policy -}}
{{- if hasKey $seen $key }}
{{ $at }} is a second rule for {{ $rule.policy }} at {{ $when }}: leave one of them out
{{- end }}
{{- $ttl := $rule.condition.ttlSeconds | default 0 | int64 -}}
{{- $_ := set $seen $key $ttl -}}
{{- end }}
{{- if and $spec.shared (has $rule.policy (list "DeleteCluster" "DeleteWorkers")) }}
{{ $at }}.policy is {{ $rule.policy }}, and the shared cluster is not the job's: use DeleteSelf or DeleteNone
{{- end }}
{{- if and (not $spec.shared) $spec.autoscaling (eq $rule.policy "DeleteWorkers") }}
{{ $at }}.policy is DeleteWorkers, and autoscaling is true, which would bring them back: use DeleteCluster
{{- end }}
{{- end }}
{{- range $when := list "jobStatus SUCCEEDED" "jobStatus FAILED" "jobDeploymentStatus Failed" }}
{{- $former := "" -}}
{{- range $policy := list "DeleteWorkers" "DeleteCluster" "DeleteSelf" }}
{{- $key := printf "%s %s" $when $policy -}}
{{- if hasKey $seen $key }}
{{- if and $former (lt (index $seen $key | int64) (index $seen (printf "%s %s" $when $former) | int64)) }}
{{ $path }}: at {{ $when }}, ttlSeconds of {{ $policy }} is {{ index $seen $key }}, less than that of {{ $former }}: raise it
{{- end }}
{{- $former = $policy -}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
