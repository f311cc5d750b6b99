{{/* Beginning of all objects' names. Never cut: what is too long is refused (see _validate.tpl). */}}
{{- define "llmyard.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name -}}
{{- end -}}
{{- end }}

{{/* By these a release's pods are found; they never change. */}}
{{- define "llmyard.selectorLabels" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "llmyard.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "llmyard.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Metadata of an object. Takes root, name and, if there are any, annotations, labels (dicts). */}}
{{- define "llmyard.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "llmyard.labels" .root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with mergeOverwrite (deepCopy .root.Values.annotations) (.annotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Labels of a workload's pods. The chart's version is not among them: it would replace all clusters. */}}
{{- define "llmyard.podLabels" -}}
{{ include "llmyard.selectorLabels" .root }}
app.kubernetes.io/component: {{ .workload.kind }}
llmyard/workload: {{ .workload.key }}
{{- with .root.Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Selects the pods of a workload. */}}
{{- define "llmyard.workloadSelector" -}}
{{ include "llmyard.selectorLabels" .root }}
llmyard/workload: {{ .workload.key }}
{{- end }}

{{- define "llmyard.image" -}}
{{- $image := .Values.image -}}
{{- with $image.registry }}{{ . }}/{{ end -}}
{{- $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{/* Where artifacts are, as the pods see it. */}}
{{- define "llmyard.storage" -}}
{{- .Values.storage.uri | default (ternary "/storage" "" (ne .Values.storage.claim "")) -}}
{{- end }}
