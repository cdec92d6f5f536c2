{{- define "whisper-operator.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimAll "-" }}
{{- end }}

{{/* Truncated to 52 characters to leave room for suffixes. Service names must be DNS-1035 labels. */}}
{{- define "whisper-operator.fullname" -}}
{{- $name := include "whisper-operator.name" . }}
{{- $fullname := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- $short := .Values.fullnameOverride | default $fullname | trunc 52 | trimAll "-" }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $short) }}
{{- fail (printf "the release's resources would be named '%s', which is not a valid Service name: set fullnameOverride to lower-case letters, digits and '-', starting with a letter" $short) }}
{{- end }}
{{- $short }}
{{- end }}

{{- define "whisper-operator.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "whisper-operator.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "whisper-operator.leaseName" -}}
{{- .Values.leaseName | default (include "whisper-operator.fullname" .) }}
{{- end }}

{{/* Selects the operator's pods. A Deployment's selector is immutable. */}}
{{- define "whisper-operator.selector" -}}
app.kubernetes.io/name: {{ include "whisper-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels of the `helm test` pod, which must not match the operator's selector. */}}
{{- define "whisper-operator.testSelector" -}}
app.kubernetes.io/name: {{ include "whisper-operator.name" . | trunc 58 }}-test
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "whisper-operator.commonLabels" -}}
{{- $version := dict "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/part-of" "whisper-operator" }}
{{- $helm := dict "app.kubernetes.io/managed-by" .Release.Service "helm.sh/chart" (include "whisper-operator.chart" .) }}
{{- merge $helm (.Values.commonLabels | default dict) $version | toYaml }}
{{- end }}

{{- define "whisper-operator.labels" -}}
{{- merge (include "whisper-operator.selector" . | fromYaml) (include "whisper-operator.commonLabels" . | fromYaml) | toYaml }}
{{- end }}

{{- define "whisper-operator.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Expects a dict with `root`, the root context, and `image`, an image from the values. */}}
{{- define "whisper-operator.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}
{{- end }}
