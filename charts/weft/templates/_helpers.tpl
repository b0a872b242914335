{{/* The image: by digest, by tag where no digest is set. */}}
{{- define "weft.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* What picks the control plane's pods. It never changes: a Deployment's selector can't. */}}
{{- define "weft.selector" -}}
app.kubernetes.io/name: weft-control-plane
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "weft.labels" -}}
{{ include "weft.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: control-plane
app.kubernetes.io/part-of: weft
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Settings of every sidecar, as the control plane reads them: the user's, and what the chart knows by itself. */}}
{{- define "weft.injection" -}}
image: {{ include "weft.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
controlPlane: weft-control-plane.{{ .Release.Namespace }}.svc:15010
controlPlaneNamespace: {{ .Release.Namespace }}
trustDomain: {{ .Values.trustDomain }}
clusterDomain: {{ .Values.clusterDomain }}
{{ toYaml .Values.injection }}
{{- end }}

{{/* The identity of the control plane, which every sidecar checks, has this namespace in it. */}}
{{- define "weft.namespace" -}}
{{- if ne .Release.Namespace "weft-system" -}}
{{- fail (printf "weft is installed into the namespace weft-system, not %s: add -n weft-system" .Release.Namespace) -}}
{{- end -}}
{{ .Release.Namespace }}
{{- end }}
