{{- define "hats-worker.name" -}}
{{- .Release.Name | trunc 55 | trimSuffix "-" -}}
{{- end -}}

{{- define "hats-worker.selector" -}}
app.kubernetes.io/name: hats-worker
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hats-worker.labels" -}}
{{ include "hats-worker.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}
