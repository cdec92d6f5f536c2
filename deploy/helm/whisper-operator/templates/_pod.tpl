{{- define "whisper-operator.metricsPort" }}8081{{ end }}
{{- define "whisper-operator.healthPort" }}8080{{ end }}

{{/* The operator's settings, in the same order as in its settings.py. */}}
{{- define "whisper-operator.environment" -}}
- name: WHISPER_OPERATOR_IMAGE
  value: {{ include "whisper-operator.image" (dict "root" . "image" .Values.inference.image) | quote }}
- name: WHISPER_OPERATOR_IMAGE_PULL_POLICY
  value: {{ .Values.inference.image.pullPolicy | quote }}
- name: WHISPER_OPERATOR_POD_DEFAULTS
  value: {{ include "whisper-operator.podDefaults" . | quote }}
{{- with .Values.namespaces }}
- name: WHISPER_OPERATOR_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- if .Values.networkPolicy.enabled }}
- name: WHISPER_OPERATOR_ALLOW_FROM
  value: {{ include "whisper-operator.allowFrom" . | quote }}
{{- end }}
- name: WHISPER_OPERATOR_WORKERS
  value: {{ .Values.workers | quote }}
- name: WHISPER_OPERATOR_RESYNC_SECONDS
  value: {{ .Values.resyncSeconds | quote }}
- name: WHISPER_OPERATOR_LEASE_NAMESPACE
  value: {{ .Release.Namespace | quote }}
- name: WHISPER_OPERATOR_LEASE_NAME
  value: {{ include "whisper-operator.leaseName" . | quote }}
- name: WHISPER_OPERATOR_METRICS_PORT
  value: {{ include "whisper-operator.metricsPort" . | quote }}
- name: WHISPER_OPERATOR_HEALTH_PORT
  value: {{ include "whisper-operator.healthPort" . | quote }}
- name: WHISPER_OPERATOR_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
- name: WHISPER_OPERATOR_LOG_LEVEL
  value: {{ .Values.log.level | quote }}
{{- end }}

{{/* Defaults for the models' spec.pod, as JSON. */}}
{{- define "whisper-operator.podDefaults" -}}
{{- $given := dict }}
{{- range $name, $value := omit .Values.inference "image" }}
{{- if $value }}
{{- $_ := set $given $name $value }}
{{- end }}
{{- end }}
{{- toJson $given }}
{{- end }}

{{/* Spreads across zones and nodes by default. Constraints without a labelSelector select the operator's pods. */}}
{{- define "whisper-operator.spread" -}}
{{- $selector := dict "labelSelector" (dict "matchLabels" (include "whisper-operator.selector" . | fromYaml)) }}
{{- $zones := dict "topologyKey" "topology.kubernetes.io/zone" "maxSkew" 1 "whenUnsatisfiable" "ScheduleAnyway" }}
{{- $nodes := dict "topologyKey" "kubernetes.io/hostname" "maxSkew" 1 "whenUnsatisfiable" "ScheduleAnyway" }}
{{- range .Values.topologySpreadConstraints | default (list $zones $nodes) }}
- {{ ternary . (mergeOverwrite (deepCopy .) $selector) (hasKey . "labelSelector") | toYaml | nindent 2 | trim }}
{{- end }}
{{- end }}
