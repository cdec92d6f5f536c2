{{/* NetworkPolicyPeers allowed to reach the models' pods, as JSON. The operator and the gateway must be among them. */}}
{{- define "whisper-operator.allowFrom" -}}
{{- $here := dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace) }}
{{- $operator := dict "matchLabels" (include "whisper-operator.selector" . | fromYaml) }}
{{- $gateway := dict "matchLabels" (include "whisper-gateway.selector" . | fromYaml) }}
{{- $ours := list (dict "namespaceSelector" $here "podSelector" $operator) }}
{{- if .Values.gateway.enabled }}
{{- $ours = append $ours (dict "namespaceSelector" $here "podSelector" $gateway) }}
{{- end }}
{{- concat $ours (.Values.networkPolicy.prometheus | default list) (.Values.networkPolicy.allowFrom | default list) | toJson }}
{{- end }}
