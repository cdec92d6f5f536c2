{{- define "whisper-gateway.port" }}8002{{ end }}

{{/* Selects the gateway's pods. A StatefulSet's selector is immutable; dashboards and peers rely on the name. */}}
{{- define "whisper-gateway.selector" -}}
app.kubernetes.io/name: whisper-gateway
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "whisper-gateway.labels" -}}
{{- merge (include "whisper-gateway.selector" . | fromYaml) (include "whisper-operator.commonLabels" . | fromYaml) | toYaml }}
{{- end }}

{{/* The names of cluster-scoped objects and of roles in other namespaces, which must be unique among releases. */}}
{{- define "whisper-gateway.roleName" -}}
{{- include "whisper-operator.fullname" . }}-gateway
{{- end }}

{{- define "whisper-gateway.serviceAccountName" -}}
{{- $account := .Values.gateway.serviceAccount }}
{{- $account.name | default (ternary .Values.gateway.name "default" $account.create) }}
{{- end }}

{{- define "whisper-gateway.keysSecret" -}}
{{- .Values.gateway.keysSecret | default "whisper-operator-keys" }}
{{- end }}

{{/* The seconds in a duration such as 1h30m. Milliseconds are dropped. */}}
{{- define "whisper-gateway.seconds" -}}
{{- $seconds := 0 }}
{{- range $part := regexFindAll "[0-9]+(ms|[hms])" . -1 }}
{{- $number := regexFind "[0-9]+" $part | int }}
{{- $seconds = get (dict "h" 3600 "m" 60 "s" 1 "ms" 0) (regexFind "[a-z]+" $part) | mul $number | add $seconds }}
{{- end }}
{{- $seconds }}
{{- end }}

{{/* The gateway's settings. */}}
{{- define "whisper-gateway.environment" -}}
- name: WHISPER_HOST
  value: "0.0.0.0"
- name: WHISPER_PORT
  value: {{ include "whisper-gateway.port" . | quote }}
- name: WHISPER_DATA_DIR
  value: /var/lib/whisper
- name: WHISPER_API_KEYS_FILE
  value: /etc/whisper-keys/keys.yaml
- name: WHISPER_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- with .Values.namespaces }}
- name: WHISPER_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
# The same for each pod of the StatefulSet, so a new pod renews the demand of the old one.
- name: WHISPER_GATEWAY_ID
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: WHISPER_DRAIN
  value: {{ .Values.gateway.drain | quote }}
- name: WHISPER_MAX_WAITING
  value: {{ .Values.gateway.maxWaiting | quote }}
- name: WHISPER_MAX_WAIT
  value: {{ .Values.gateway.maxWait | quote }}
- name: WHISPER_MAX_AUDIO_BYTES
  value: {{ .Values.gateway.maxAudioBytes | quote }}
- name: WHISPER_MAX_STORED_BYTES
  value: {{ .Values.gateway.maxStoredBytes | quote }}
- name: WHISPER_JOB_RETENTION
  value: {{ .Values.gateway.jobRetention | quote }}
- name: WHISPER_METRICS_AUTH
  value: {{ .Values.gateway.metricsAuth | quote }}
{{- end }}

{{- define "whisper-gateway.dataVolume" -}}
{{- $persistence := .Values.gateway.persistence }}
{{- if $persistence.enabled -}}
persistentVolumeClaim:
  claimName: {{ $persistence.existingClaim | default .Values.gateway.name | quote }}
{{- else -}}
emptyDir:
  sizeLimit: {{ $persistence.size | quote }}
{{- end }}
{{- end }}
