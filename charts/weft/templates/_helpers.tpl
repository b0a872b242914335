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

{{/* A duration in milliseconds. The schema has checked its form, but can't weigh it. */}}
{{- define "weft.millis" -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|h|m|s)" . -1 -}}
{{- $unit := get (dict "h" 3600000 "m" 60000 "s" 1000 "ms" 1) (regexFind "[a-z]+" .) -}}
{{- $sum = add $sum (mul $unit (atoi (regexFind "[0-9]+" .))) -}}
{{- end -}}
{{ $sum }}
{{- end }}

{{/* How long a certificate is valid, which the control plane takes from 60s to 168h; the API server takes no pod's
certificate of less than 1h. */}}
{{- define "weft.leafLifetime" -}}
{{- $millis := int64 (include "weft.millis" .leafLifetime) -}}
{{- $least := ternary "1h" "60s" .podCertificates -}}
{{- if or (lt $millis (int64 (include "weft.millis" $least))) (gt $millis 604800000) -}}
{{- fail (printf "identity.leafLifetime is %s: it has to be from %s to 168h" .leafLifetime $least) -}}
{{- end -}}
{{ .leafLifetime }}
{{- end }}

{{/* Settings of every sidecar, as the control plane reads them: the user's, and what the chart knows by itself. */}}
{{- define "weft.injection" -}}
{{- if gt (int64 (include "weft.millis" .Values.injection.drainTime)) 3600000 -}}
{{- fail (printf "injection.drainTime is %s: it has to be at most 1h" .Values.injection.drainTime) -}}
{{- end -}}
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
