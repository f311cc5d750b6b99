{{/* Ray pods, their submitters and the test of this release. */}}
{{- define "llmyard.networkSelector" -}}
podSelector:
  matchLabels:
    {{- include "llmyard.selectorLabels" . | nindent 4 }}
{{- end }}

{{/* The pod of `helm test`, as a peer. */}}
{{- define "llmyard.testPeer" -}}
- podSelector:
    matchLabels:
      {{- include "llmyard.selectorLabels" . | nindent 6 }}
      app.kubernetes.io/component: test
{{- end }}

{{- define "llmyard.tcpPorts" -}}
{{- range . }}
- {protocol: TCP, port: {{ . | int64 }}}
{{- end }}
{{- end }}
