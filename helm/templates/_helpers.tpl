{{- define "statecar.name" -}}
{{- .Values.nameOverride | default .Chart.Name }}
{{- end }}

{{- /* (list NAME LENGTH): a longer name ends in a hash instead, so that names that differ late go on differing. */}}
{{- define "statecar.cut" -}}
{{- $name := index . 0 }}
{{- $most := index . 1 }}
{{- if gt (len $name) $most }}
{{- $name = printf "%s-%s" ($name | trunc (sub $most 9 | int) | trimSuffix "-") ($name | sha256sum | trunc 8) }}
{{- end }}
{{- $name }}
{{- end }}

{{- define "statecar.fullname" -}}
{{- $name := include "statecar.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name }}
{{- else }}
{{- include "statecar.cut" (list (printf "%s-%s" .Release.Name $name) 63) }}
{{- end }}
{{- end }}

{{- /* The name of something beside statecar: (list . "valkey"). Short enough for a StatefulSet's pods. */}}
{{- define "statecar.nameOf" -}}
{{- printf "%s-%s" (include "statecar.cut" (list (include "statecar.fullname" (index . 0)) 45)) (index . 1) }}
{{- end }}

{{- /* (list . "") for statecar itself, (list . "valkey") for its Valkey: never one selector for two kinds of pod. */}}
{{- define "statecar.selectorLabels" -}}
{{- $component := index . 1 -}}
{{- with index . 0 -}}
app.kubernetes.io/name: {{ include "statecar.name" . }}{{ with $component }}-{{ . }}{{ end }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}
{{- end }}

{{- /* (list . COMPONENT MORE...): the standard labels, under those of the values and of the maps MORE; selectors stay. */}}
{{- define "statecar.labels" -}}
{{- $root := index . 0 }}
{{- $labels := include "statecar.selectorLabels" . | fromYaml }}
{{- range append (rest (rest .)) $root.Values.commonLabels }}
{{- $labels = tpl (toYaml .) $root | fromYaml | merge $labels }}
{{- end }}
{{- $standard := dict "app.kubernetes.io/component" (index . 1 | default "proxy") "app.kubernetes.io/version" $root.Chart.AppVersion }}
{{- $standard = set $standard "app.kubernetes.io/part-of" (include "statecar.name" $root) }}
{{- $standard = set $standard "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- $standard = set $standard "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") }}
{{- merge $labels $standard | toYaml }}
{{- end }}

{{- define "statecar.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "statecar.fullname" .) "default") }}
{{- end }}

{{- /* (list . IMAGE DEFAULT-TAG) */}}
{{- define "statecar.image" -}}
{{- $image := index . 1 }}
{{- $repository := $image.repository }}
{{- with (index . 0).Values.global.imageRegistry }}
{{- $repository = printf "%s/%s" . $repository }}
{{- end }}
{{- if $image.digest }}
{{- printf "%s@%s" $repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $repository ($image.tag | default (index . 2)) }}
{{- end }}
{{- end }}

{{- define "statecar.pullSecrets" -}}
{{- with concat .Values.image.pullSecrets (.Values.global.imagePullSecrets | default list) -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "statecar.ownPrefix" -}}
{{- .Values.config.own_prefix | default "" }}
{{- end }}

{{- define "statecar.dataDir" -}}
{{- .Values.config.data_dir | default "/var/lib/statecar" }}
{{- end }}

{{- /* Which store: embedded, memory, valkey, secret or url. */}}
{{- define "statecar.store" -}}
{{- with .Values.store }}
{{- if .existingSecret }}secret
{{- else if $.Values.valkey.enabled }}valkey
{{- else if eq .url "memory://" }}memory
{{- else if or (not .url) (eq .url "embedded") }}embedded
{{- else }}url
{{- end }}
{{- end }}
{{- end }}

{{- /* "true" for a store that lives in one pod and serves no other. */}}
{{- define "statecar.privateStore" -}}
{{- if has (include "statecar.store" .) (list "embedded" "memory") }}true{{ end }}
{{- end }}

{{- define "statecar.valkeyHasPassword" -}}
{{- if and .Values.valkey.enabled (or .Values.valkey.password .Values.valkey.existingSecret) }}true{{ end }}
{{- end }}

{{- define "statecar.valkeyPasswordEnv" -}}
- name: VALKEY_PASSWORD
  valueFrom:
    secretKeyRef:
      {{- if .Values.valkey.existingSecret }}
      name: {{ tpl .Values.valkey.existingSecret . }}
      key: {{ .Values.valkey.existingSecretKey }}
      {{- else }}
      name: {{ include "statecar.fullname" . }}
      key: valkey-password
      {{- end }}
{{- end }}

{{- /* Every secret option: its variable, its key in our Secret with the value given here, or someone's Secret and key. */}}
{{- define "statecar.secrets" -}}
{{- $keys := .Values.auth.existingSecretKeys }}
{{- $url := eq (include "statecar.store" .) "url" | ternary (tpl .Values.store.url .) "" }}
{{- $all := list (dict "env" "STATECAR_STORE" "key" "store-url" "value" $url "secret" .Values.store.existingSecret "from" .Values.store.existingSecretKey) }}
{{- $all = append $all (dict "env" "STATECAR_UPSTREAM_API_KEY" "key" "upstream-api-key" "value" .Values.upstream.apiKey "secret" .Values.upstream.existingSecret "from" .Values.upstream.existingSecretKey) }}
{{- $all = append $all (dict "env" "STATECAR_API_KEY" "key" "api-keys" "value" (join "," .Values.auth.apiKeys) "secret" .Values.auth.existingSecret "from" $keys.apiKeys) }}
{{- $all = append $all (dict "env" "STATECAR_SEAL_KEY" "key" "seal-keys" "value" (join "," .Values.auth.sealKeys) "secret" .Values.auth.existingSecret "from" $keys.sealKeys) }}
{{- $all = append $all (dict "env" "STATECAR_ENCRYPTION_KEY" "key" "encryption-keys" "value" (join "," .Values.auth.encryptionKeys) "secret" .Values.auth.existingSecret "from" $keys.encryptionKeys) }}
{{- $all = append $all (dict "env" "STATECAR_TENANT_SECRET" "key" "tenant-secret" "value" .Values.auth.tenantSecret "secret" .Values.auth.existingSecret "from" $keys.tenantSecret) }}
{{- $tools := .Values.tools }}
{{- $all = append $all (dict "env" "STATECAR_CONNECTOR_AUTHORIZATION" "key" "connector-authorization" "value" (join "," $tools.connectorAuthorization) "secret" $tools.existingSecret "from" $tools.existingSecretKeys.connectorAuthorization) }}
{{- $all = append $all (dict "env" "STATECAR_WEB_SEARCH_KEY" "key" "web-search-key" "value" $tools.webSearchKey "secret" $tools.existingSecret "from" $tools.existingSecretKeys.webSearchKey) }}
{{- dict "all" $all | toJson }}
{{- end }}

{{- /* (list . TEXT): tells whether secrets changed. By scrypt, which is in derivePassword: who may read pods but no Secrets
could try weak passwords against a plain hash, millions a second. */}}
{{- define "statecar.secretChecksum" -}}
{{- derivePassword 1 "maximum" (index . 1) (include "statecar.fullname" (index . 0)) (index . 0).Release.Namespace | sha256sum }}
{{- end }}

{{- /* Seconds that a pod needs to end: wait, drain, close (and let the store inside write its data). */}}
{{- define "statecar.secondsToEnd" -}}
{{- $closing := include "statecar.privateStore" . | eq "true" | ternary 35 15 }}
{{- add .Values.shutdown.drainDelaySeconds .Values.shutdown.graceSeconds $closing }}
{{- end }}

{{- /* (list . PATH PROBE): the probe, asking our path where it does not say itself how to ask. */}}
{{- define "statecar.probe" -}}
{{- $probe := index . 2 }}
{{- if not (or $probe.httpGet $probe.exec $probe.tcpSocket $probe.grpc) }}
{{- $probe = merge (dict "httpGet" (dict "path" (print (include "statecar.ownPrefix" (index . 0)) (index . 1)) "port" "http")) $probe }}
{{- end }}
{{- toYaml $probe }}
{{- end }}

{{- /* The variables that are no plain configuration: secrets by reference, and whatever the values add. */}}
{{- define "statecar.env" -}}
{{- if include "statecar.valkeyHasPassword" . }}
{{ include "statecar.valkeyPasswordEnv" . }}
- name: STATECAR_STORE
  value: redis://:$(VALKEY_PASSWORD)@{{ include "statecar.nameOf" (list . "valkey") }}:6379/0
{{- end }}
{{- range (include "statecar.secrets" . | fromJson).all }}
{{- if .value }}
- name: {{ .env }}
  valueFrom:
    secretKeyRef:
      name: {{ include "statecar.fullname" $ }}
      key: {{ .key }}
{{- else if and .secret .from }}
- name: {{ .env }}
  valueFrom:
    secretKeyRef:
      name: {{ tpl .secret $ }}
      key: {{ .from }}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ tpl (toString $value) $ | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end }}

{{- /* (list VALUES NAME...): those of the values that are given, as YAML. */}}
{{- define "statecar.given" -}}
{{- $given := dict }}
{{- range $name := rest . }}
{{- with index (first $) $name }}
{{- $given = set $given $name . }}
{{- end }}
{{- end }}
{{- with $given }}{{ toYaml . }}{{ end }}
{{- end }}
