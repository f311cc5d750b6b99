{{/*
What runs on the head: one simple command, for KubeRay's submitter writes it into a line of shell. A file that is new in
the shared cluster's ConfigMap appears there within some two minutes.
*/}}
{{- define "llmyard.entrypoint" -}}
{{- $file := printf "/etc/llmyard/jobs/%s" .file -}}
{{- if .spec.shared -}}
sh -c 'for i in $(seq 150); do test -f "$0" && exec "$@"; sleep 2; done; echo "$0 is missing" >&2; exit 1' {{ $file }} {{ end -}}
llmyard run {{ $file }} --address auto
{{- range .spec.set }} --set '{{ . | replace "'" "'\\''" }}'{{ end }}
{{- end }}

{{/* The pod that submits a job and shows its log. */}}
{{- define "llmyard.submitterTemplate" -}}
metadata:
  labels:
    {{- include "llmyard.podLabels" . | nindent 4 }}
spec:
  {{- include "llmyard.podCommon" .root | nindent 2 }}
  serviceAccountName: {{ include "llmyard.fullname" .root }}-worker
  restartPolicy: Never
  containers:
    - name: ray-job-submitter
      image: {{ include "llmyard.image" .root }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      securityContext:
        {{- include "llmyard.securityContext" .root | nindent 8 }}
      env:
        {{- include "llmyard.homeEnv" . | nindent 8 }}
        {{- include "llmyard.authEnv" .root | nindent 8 }}
      {{- include "llmyard.smallResources" . | nindent 6 }}
      volumeMounts:
        {{- include "llmyard.homeMounts" . | nindent 8 }}
        {{- include "llmyard.authMount" .root | nindent 8 }}
  volumes:
    {{- include "llmyard.homeVolumes" .root | nindent 4 }}
    {{- include "llmyard.authVolume" .root | nindent 4 }}
{{- end }}

{{/* Of a container that only waits for others. */}}
{{- define "llmyard.smallResources" -}}
{{ include "llmyard.resources" (dict "cpu" "200m" "memory" "512Mi" "disk" "1Gi") }}
{{- end }}
