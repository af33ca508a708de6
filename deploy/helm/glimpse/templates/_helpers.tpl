{{/* The name of all objects: that of the release, with "glimpse" behind it unless it is in the name already. */}}
{{- define "glimpse.name" -}}
{{- if contains "glimpse" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-glimpse" (.Release.Name | trunc 42 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* What tells the pods of this release from all others. A selector cannot be changed later. */}}
{{- define "glimpse.selector" -}}
app.kubernetes.io/name: glimpse
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The labels of every object. */}}
{{- define "glimpse.labels" -}}
{{ include "glimpse.selector" . }}
app.kubernetes.io/part-of: glimpse
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Name, namespace and labels of an object. Takes a list: the root, and what its name ends with. */}}
{{- define "glimpse.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "glimpse.name" $root }}{{ index . 1 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "glimpse.labels" $root | nindent 2 }}
{{- end -}}

{{/* The image: by its digest, or by a tag where that is all there is. */}}
{{- define "glimpse.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* A value as the text of a variable. Helm reads numbers as floating point and would write 268435456 as 2.68435456e+08. */}}
{{- define "glimpse.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . | toString | quote -}}
{{- else -}}
{{- toString . | quote -}}
{{- end -}}
{{- end -}}

{{/* The name of the claim that the weights are read from. */}}
{{- define "glimpse.claim" -}}
{{- .Values.weights.volume.existingClaim | default (printf "%s-weights" (include "glimpse.name" .)) -}}
{{- end -}}

{{/* What an init container fetches, and the server then serves. */}}
{{- define "glimpse.fetched" -}}
- name: GLIMPSE_MODEL
  value: {{ .Values.weights.fetch.model | quote }}
- name: GLIMPSE_WEIGHTS
  value: {{ .Values.weights.fetch.weights | quote }}
{{- end -}}

{{/* What a container of the pod may do. */}}
{{- define "glimpse.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
    - ALL
{{- end -}}

{{/* Values that contradict each other or the server end the installation with a sentence. */}}
{{- define "glimpse.check" -}}
{{- $taken := dict
  "GLIMPSE_PORT" "Callers use port 50051 of the Service."
  "GLIMPSE_METRICS_PORT" "Prometheus uses port 9464 of the Service for metrics."
  "GLIMPSE_HTTP_PORT" "Set http.enabled."
  "GLIMPSE_SERVE_PAGE" "Set http.page."
  "GLIMPSE_HTTP_ORIGINS" "Set http.origins."
  "GLIMPSE_HEALTH_PORT" "It is open where credentials.enabled is true."
  "GLIMPSE_TLS_CERTIFICATE" "Set credentials.tlsSecret."
  "GLIMPSE_TLS_KEY" "Set credentials.tlsSecret."
  "GLIMPSE_TOKENS" "Set credentials.tokensSecret."
  "GLIMPSE_TRUSTED_PROXIES" "Set trustedProxies."
  "GLIMPSE_DECODE_THREADS" "It follows resources.limits.cpu."
-}}
{{- range $name, $advice := $taken -}}
{{- if hasKey $.Values.settings $name -}}
{{- fail (printf "settings has %s, which this chart sets itself. Remove it. %s" $name $advice) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.samples.enabled (hasKey .Values.settings "GLIMPSE_SAMPLES") -}}
{{- fail "settings has GLIMPSE_SAMPLES, and samples.enabled is true, which sets it. Remove one of them." -}}
{{- end -}}
{{- if ne .Values.weights.source "image" -}}
{{- $other := ternary "weights.volume.path" "weights.fetch" (eq .Values.weights.source "volume") -}}
{{- $both := or (eq .Values.weights.source "fetch") .Values.weights.volume.path -}}
{{- if and $both (hasKey .Values.settings "GLIMPSE_WEIGHTS") -}}
{{- fail (printf "settings has GLIMPSE_WEIGHTS, and so has %s. Remove one of them." $other) -}}
{{- end -}}
{{- if and (eq .Values.weights.source "fetch") (hasKey .Values.settings "GLIMPSE_MODEL") -}}
{{- fail "settings has GLIMPSE_MODEL, and so has weights.fetch. Remove the one in settings and set weights.fetch.model." -}}
{{- end -}}
{{- end -}}
{{- if and .Values.credentials.enabled (not .Values.credentials.tlsSecret) .Values.credentials.tokensSecret -}}
{{- fail "credentials.tokensSecret is set without credentials.tlsSecret: tokens would travel unencrypted. Name a Secret with a certificate, too." -}}
{{- end -}}
{{- if and .Values.credentials.enabled (not .Values.credentials.tlsSecret) -}}
{{- fail "credentials.enabled is true, and credentials.tlsSecret is empty. Name a Secret of type kubernetes.io/tls, or set credentials.enabled to false." -}}
{{- end -}}
{{- if not (hasKey (.Values.resources.limits | default dict) "cpu") -}}
{{- fail "resources.limits.cpu is missing: the server decodes with so many threads. Set it, for example to 2." -}}
{{- end -}}
{{- end -}}
