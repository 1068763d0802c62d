{{- define "kerno.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "kerno.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "kerno.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "kerno.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "kerno.selector" -}}
app.kubernetes.io/name: {{ include "kerno.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kerno.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "kerno.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "kerno.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "kerno.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "kerno.fullname" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- /* Whether other machines may ask: then there is TLS, and a token. */}}
{{- define "kerno.served" -}}
{{- if and .Values.http.tlsSecret .Values.http.tokenSecret }}yes{{ end }}
{{- end }}

{{- define "kerno.check" -}}
{{- if and (or .Values.http.tlsSecret .Values.http.tokenSecret) (not (include "kerno.served" .)) }}
{{- fail "http.tlsSecret and http.tokenSecret belong together: set both, or none" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (not (include "kerno.served" .)) }}
{{- fail "serviceMonitor.enabled needs http.tlsSecret and http.tokenSecret: without them, metrics are served on the node itself only" }}
{{- end }}
{{- end }}
