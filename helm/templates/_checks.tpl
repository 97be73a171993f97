{{- /* What cannot work fails here, with the reason and the line that helps; the schema has checked types and forms. */}}
{{- define "statecar.check" -}}
{{- include "statecar.checkUpstream" . }}
{{- include "statecar.checkStore" . }}
{{- include "statecar.checkSecrets" . }}
{{- include "statecar.checkShutdown" . }}
{{- include "statecar.checkScaling" . }}
{{- if .Values.pdb.enabled }}
{{- include "statecar.checkEvictions" . }}
{{- end }}
{{- include "statecar.checkMetrics" . }}
{{- include "statecar.checkService" . }}
{{- if .Values.networkPolicy.enabled }}
{{- include "statecar.checkNetworkPolicy" . }}
{{- end }}
{{- end }}

{{- define "statecar.checkUpstream" -}}
{{- if and .Values.upstream.url .Values.config.upstreams }}
{{- fail "\n\nupstream.url and config.upstreams are both given: keep one of them.\n" }}
{{- end }}
{{- if not (or .Values.upstream.url .Values.config.upstreams) }}
{{- fail "\n\nupstream.url is missing. Give the base URL of the chat-completions server, up to and including /v1:\n  --set upstream.url=http://vllm:8000/v1\nor try it without a model:\n  --set upstream.url=demo\nSeveral of them stand in config.upstreams.\n" }}
{{- end }}
{{- end }}

{{- define "statecar.checkStore" -}}
{{- $chosen := list }}
{{- if .Values.store.url }}{{ $chosen = append $chosen "store.url" }}{{ end }}
{{- if .Values.store.existingSecret }}{{ $chosen = append $chosen "store.existingSecret" }}{{ end }}
{{- if .Values.valkey.enabled }}{{ $chosen = append $chosen "valkey.enabled" }}{{ end }}
{{- if gt (len $chosen) 1 }}
{{- fail (printf "\n\n%s are given, but there is one store: keep one of them.\n" (join " and " $chosen)) }}
{{- end }}
{{- if include "statecar.privateStore" . }}
{{- $store := .Values.store.url | default "embedded" }}
{{- $help := "Give all pods one store: store.url (redis://...), store.existingSecret or valkey.enabled=true" }}
{{- if .Values.autoscaling.enabled }}
{{- fail (printf "\n\nautoscaling.enabled needs a shared store, and the store %s is private to one pod: every further pod would keep a state of its own.\n%s.\n" $store $help) }}
{{- end }}
{{- if gt (int .Values.replicaCount) 1 }}
{{- fail (printf "\n\nreplicaCount is %d, and the store %s is private to one pod: each would keep a state of its own and not find what another stored.\n%s; or set replicaCount=1.\n" (int .Values.replicaCount) $store $help) }}
{{- end }}
{{- end }}
{{- if and .Values.valkey.password .Values.valkey.existingSecret }}
{{- fail "\n\nvalkey.password and valkey.existingSecret are both given: keep one of them.\n" }}
{{- end }}
{{- end }}

{{- define "statecar.checkSecrets" -}}
{{- if and .Values.auth.keysFileSecret .Values.config.keys_file }}
{{- fail "\n\nauth.keysFileSecret and config.keys_file are both given: keep one of them.\n" }}
{{- end }}
{{- range $part, $example := dict "auth" "apiKeys=api-keys" "tools" "webSearchKey=web-search-key" }}
{{- $given := index $.Values $part }}
{{- $named := list }}
{{- range $value, $key := $given.existingSecretKeys }}
{{- if $key }}
{{- $named = append $named $value }}
{{- if not $given.existingSecret }}
{{- fail (printf "\n\n%s.existingSecretKeys.%s names a key, but %s.existingSecret names no Secret.\n" $part $value $part) }}
{{- end }}
{{- if index $given $value }}
{{- fail (printf "\n\n%s.%s and %s.existingSecretKeys.%s are both given: keep one of them.\n" $part $value $part $value) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $given.existingSecret (not $named) }}
{{- fail (printf "\n\n%s.existingSecret names a Secret, but %s.existingSecretKeys names none of its keys, as --set %s.existingSecretKeys.%s.\n" $part $part $part $example) }}
{{- end }}
{{- end }}
{{- if and .Values.upstream.apiKey .Values.upstream.existingSecret }}
{{- fail "\n\nupstream.apiKey and upstream.existingSecret are both given: keep one of them.\n" }}
{{- end }}
{{- end }}

{{- define "statecar.checkShutdown" -}}
{{- $given := .Values.shutdown.terminationGracePeriodSeconds }}
{{- $needed := include "statecar.secondsToEnd" . | int }}
{{- if and (not (kindIs "invalid" $given)) (lt (int $given) $needed) }}
{{- fail (printf "\n\nshutdown.terminationGracePeriodSeconds is %d, but drainDelaySeconds (%d), graceSeconds (%d) and the closing of the store take up to %d: give %d or more, or leave it out.\n" (int $given) (int .Values.shutdown.drainDelaySeconds) (int .Values.shutdown.graceSeconds) $needed $needed) }}
{{- end }}
{{- end }}

{{- define "statecar.checkScaling" -}}
{{- with .Values.autoscaling }}
{{- if .enabled }}
{{- if not (or .targetCPUUtilizationPercentage .metrics) }}
{{- fail "\n\nautoscaling.enabled needs something to go by: autoscaling.targetCPUUtilizationPercentage or autoscaling.metrics.\n" }}
{{- end }}
{{- if and .targetCPUUtilizationPercentage (not (dig "requests" "cpu" "" ($.Values.resources | default dict))) }}
{{- fail "\n\nautoscaling.targetCPUUtilizationPercentage is a share of resources.requests.cpu, which is not given: set it, or set the target to null and use autoscaling.metrics.\n" }}
{{- end }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "\n\nautoscaling.minReplicas (%d) is above autoscaling.maxReplicas (%d).\n" (int .minReplicas) (int .maxReplicas)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* A budget that allows no eviction holds up every drain of a node. Percentages are rounded as Kubernetes does: up. */}}
{{- define "statecar.checkEvictions" -}}
{{- $replicas := .Values.autoscaling.enabled | ternary .Values.autoscaling.minReplicas .Values.replicaCount | int }}
{{- $least := include "statecar.share" (list .Values.pdb.minAvailable $replicas) }}
{{- $most := include "statecar.share" (list .Values.pdb.maxUnavailable $replicas) }}
{{- if and $least $replicas (ge (int $least) $replicas) }}
{{- fail (printf "\n\npdb.minAvailable is %v, of %d pods at least: none could ever be evicted, and its node not be drained.\nGive less, or more pods, or pdb.maxUnavailable alone.\n" .Values.pdb.minAvailable $replicas) }}
{{- end }}
{{- if and (not $least) (eq (int $most) 0) $replicas }}
{{- fail "\n\npdb.enabled needs a pdb.maxUnavailable of 1 or more, or a pdb.minAvailable: no pod could ever be evicted, and its node not be drained.\n" }}
{{- end }}
{{- end }}

{{- /* (list NUMBER-OR-PERCENTAGE PODS): as a number of pods; empty for null. */}}
{{- define "statecar.share" -}}
{{- $share := index . 0 }}
{{- if kindIs "string" $share }}
{{- div (mul (trimSuffix "%" $share | int) (index . 1) | add 99) 100 }}
{{- else if not (kindIs "invalid" $share) }}
{{- int $share }}
{{- end }}
{{- end }}

{{- define "statecar.checkMetrics" -}}
{{- range $name := list "serviceMonitor" "prometheusRule" }}
{{- if and (index $.Values.metrics $name).enabled (not $.Values.metrics.enabled) }}
{{- fail (printf "\n\nmetrics.%s.enabled needs metrics.enabled=true.\n" $name) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "statecar.checkService" -}}
{{- range $name := list "loadBalancerClass" "loadBalancerSourceRanges" }}
{{- if and (index $.Values.service $name) (ne $.Values.service.type "LoadBalancer") }}
{{- fail (printf "\n\nservice.%s is for service.type=LoadBalancer, and it is %s.\n" $name $.Values.service.type) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "statecar.checkNetworkPolicy" -}}
{{- $egress := .Values.networkPolicy.egress }}
{{- $url := tpl .Values.upstream.url . }}
{{- if not (or $egress.upstream (eq $url "demo") (regexMatch "^(http\\+unix:|https?://(localhost|127\\.|\\[::1\\]))" $url)) }}
{{- fail "\n\nnetworkPolicy.enabled would cut statecar off from its upstream: say in networkPolicy.egress.upstream where it is, as\n  - to: [{podSelector: {matchLabels: {app: vllm}}}]\n    ports: [{port: 8000}]\n" }}
{{- end }}
{{- if and (not $egress.store) (has (include "statecar.store" .) (list "url" "secret")) (not (hasPrefix "unix:" .Values.store.url)) }}
{{- fail "\n\nnetworkPolicy.enabled would cut statecar off from its store: say in networkPolicy.egress.store where it is, as\n  - to: [{podSelector: {matchLabels: {app: redis}}}]\n    ports: [{port: 6379}]\n" }}
{{- end }}
{{- $config := .Values.config }}
{{- if and $config.jwt_issuer (not $egress.extra) }}
{{- fail "\n\nnetworkPolicy.enabled would cut statecar off from its identity providers (config.jwt_issuer), and refuse every token: say in networkPolicy.egress.extra where they are, as\n  - ports: [{port: 443}]\n" }}
{{- end }}
{{- if and (or $config.connector $config.mcp_allow $config.web_search) (not $egress.tools) }}
{{- fail "\n\nnetworkPolicy.enabled would cut statecar off from the servers of hosted tools: say in networkPolicy.egress.tools where they are, as\n  - to: [{podSelector: {matchLabels: {app: mcp}}}]\n    ports: [{port: 8080}]\n" }}
{{- end }}
{{- end }}
