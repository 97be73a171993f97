{{- define "statecar.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 55 | trimSuffix "-" }}
{{- end }}

{{- define "statecar.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* The name of something beside statecar: (list . "valkey"). Short enough for a StatefulSet's pods. */}}
{{- define "statecar.nameOf" -}}
{{- printf "%s-%s" (include "statecar.fullname" (index . 0) | trunc 45 | trimSuffix "-") (index . 1) }}
{{- end }}

{{- /* (list . "") for statecar itself, (list . "valkey") for its Valkey: never one selector for two kinds of pod. */}}
{{- define "statecar.selectorLabels" -}}
{{- $component := index . 1 -}}
{{- with index . 0 -}}
app.kubernetes.io/name: {{ include "statecar.name" . }}{{ with $component }}-{{ . }}{{ end }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- end }}

{{- define "statecar.labels" -}}
{{ include "statecar.selectorLabels" . }}
app.kubernetes.io/component: {{ index . 1 | default "proxy" }}
{{- $root := index . 0 }}
{{- with $root }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ include "statecar.name" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ tpl (toYaml .) $root }}
{{- end }}
{{- end }}
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
{{- $all = append $all (dict "env" "STATECAR_TENANT_SECRET" "key" "tenant-secret" "value" .Values.auth.tenantSecret "secret" .Values.auth.existingSecret "from" $keys.tenantSecret) }}
{{- dict "all" $all | toJson }}
{{- end }}

{{- /* Seconds that a pod needs to end: wait, drain, close (and let the store inside write its data). */}}
{{- define "statecar.secondsToEnd" -}}
{{- $closing := include "statecar.privateStore" . | eq "true" | ternary 35 15 }}
{{- add .Values.shutdown.preStopSeconds .Values.shutdown.graceSeconds $closing }}
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
