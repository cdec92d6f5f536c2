{{/* NetworkPolicyPeers allowed to reach the models' pods, as JSON. The operator must always be among them. */}}
{{- define "whisper-operator.allowFrom" -}}
{{- $here := dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace) }}
{{- $operator := dict "matchLabels" (include "whisper-operator.selector" . | fromYaml) }}
{{- $gateway := dict "matchLabels" (dict "app.kubernetes.io/name" "whisper-gateway") }}
{{- $ours := list (dict "namespaceSelector" $here "podSelector" $operator) (dict "namespaceSelector" $here "podSelector" $gateway) }}
{{- concat $ours (.Values.networkPolicy.prometheus | default list) (.Values.networkPolicy.allowFrom | default list) | toJson }}
{{- end }}
