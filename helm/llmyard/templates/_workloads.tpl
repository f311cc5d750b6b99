{{/*
All workloads of the release as a JSON array, each with its defaults filled in:
  kind    endpoint, cluster or job
  name    as the values have it
  path    of its values, for messages
  key     value of the label llmyard/workload
  object  name of the Kubernetes object
  given   what the values say of it; spec: that over the defaults
*/}}
{{- define "llmyard.workloads" -}}
{{- $root := . -}}
{{- $fullname := include "llmyard.fullname" . -}}
{{- $all := list -}}
{{- range $name, $given := .Values.endpoints -}}
{{- $spec := mergeOverwrite (deepCopy $root.Values.endpointDefaults) (deepCopy ($given | default dict)) -}}
{{- $spec = include "llmyard.replaced" (dict "spec" $spec "given" $given "keys" (list "workers")) | fromJson -}}
{{- $all = append $all (dict "kind" "endpoint" "name" $name "path" (printf "endpoints.%s" $name)
    "key" (printf "endpoint-%s" $name) "object" (printf "%s-%s" $fullname $name) "given" $given "spec" $spec) -}}
{{- end -}}
{{- if .Values.cluster.enabled -}}
{{- $all = append $all (dict "kind" "cluster" "name" "cluster" "path" "cluster" "key" "cluster"
    "object" (printf "%s-cluster" $fullname) "given" .Values.cluster "spec" .Values.cluster) -}}
{{- end -}}
{{- range $name, $given := .Values.jobs -}}
{{- $spec := mergeOverwrite (deepCopy $root.Values.jobDefaults) (deepCopy ($given | default dict)) -}}
{{- $spec = include "llmyard.replaced" (dict "spec" $spec "given" $given "keys" (list "workers")) | fromJson -}}
{{- /* A RayJob runs once: another job or other overrides get a RayJob of another name, and a file of another name. */ -}}
{{- $digest := printf "%s\n%s" $spec.job (toJson $spec.set) | sha256sum | trunc 6 -}}
{{- $key := ternary "cluster" (printf "job-%s" $name) $spec.shared -}}
{{- $all = append $all (dict "kind" "job" "name" $name "path" (printf "jobs.%s" $name) "key" $key
    "object" (printf "%s-%s-%s" $fullname $name $digest) "file" (printf "%s-%s.yaml" $name $digest)
    "given" $given "spec" $spec) -}}
{{- end -}}
{{- toJson $all -}}
{{- end }}

{{/* Maps that are given take the place of the default ones; merging would add to them. */}}
{{- define "llmyard.replaced" -}}
{{- $spec := .spec -}}
{{- $given := .given | default dict -}}
{{- range .keys -}}
{{- if hasKey $given . -}}
{{- $spec = set $spec . (index $given .) -}}
{{- end -}}
{{- end -}}
{{- toJson $spec -}}
{{- end }}

{{/* Those of the workloads that have Ray pods of their own. */}}
{{- define "llmyard.rayWorkloads" -}}
{{- $all := list -}}
{{- range include "llmyard.workloads" . | fromJsonArray -}}
{{- if not (and (eq .kind "job") .spec.shared) -}}
{{- $all = append $all . -}}
{{- end -}}
{{- end -}}
{{- toJson $all -}}
{{- end }}

{{/* A pool with its defaults filled in, as JSON. Takes root and name. */}}
{{- define "llmyard.pool" -}}
{{- mergeOverwrite (deepCopy .root.Values.poolDefaults) (deepCopy (index .root.Values.pools .name | default dict)) | toJson -}}
{{- end }}
