{{- define "bridge.name" -}}
{{- $chart := .Values.nameOverride | default .Chart.Name }}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}{{ else if contains $chart .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name $chart | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "bridge.selector" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bridge.labels" -}}
{{ include "bridge.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "bridge.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "bridge.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "bridge.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "bridge.configMap" -}}
{{ .Values.existingConfigMap | default (printf "%s-config" (include "bridge.name" .)) }}
{{- end }}

{{- /* Names under which others may call the port `ops`: those of the Services, and the address of the pod */ -}}
{{- define "bridge.hosts" -}}
{{- $hosts := list "${POD_IP}" }}
{{- $services := list (include "bridge.name" .) }}
{{- if .Values.autoscaling.worker.work.enabled }}{{ $services = append $services (printf "%s-worker" (include "bridge.name" .)) }}{{ end }}
{{- range $services }}
{{- $hosts = concat $hosts (list . (printf "%s.%s" . $.Release.Namespace) (printf "%s.%s.svc" . $.Release.Namespace) (printf "%s.%s.svc.cluster.local" . $.Release.Namespace)) }}
{{- end }}
{{- concat $hosts .Values.ops.allowedHosts | toJson }}
{{- end }}

{{- define "bridge.scheme" -}}{{ empty .Values.ops.tls.secret | ternary "HTTP" "HTTPS" }}{{- end }}

{{- define "bridge.overlay" -}}
ops:
  drain: {{ .Values.drainSeconds }}s
  log: {format: json}
  state_dir: /var/lib/bridge/state
  reload: {watch: true}
  http:
    host: {{ .Values.ops.host | quote }}
    port: {{ .Values.ops.port }}
    allowed_hosts: {{ include "bridge.hosts" . }}
    peers: {url: "${POD_IP}"}
    {{- with .Values.ops.tls.secret }}
    tls: {certificate: {{ printf "/run/secrets/%s/tls.crt" . | quote }}, key: {{ printf "/run/secrets/%s/tls.key" . | quote }}}
    {{- end }}
{{- end }}

{{- /* Hash of the settings that a running daemon does not take over: all but the sections that a reload changes */ -}}
{{- define "bridge.restart" -}}
{{- $fixed := list (include "bridge.overlay" .) }}
{{- range $name, $text := .Values.config }}
{{- $read := fromYaml $text }}
{{- $fixed = append $fixed (hasKey $read "Error" | ternary $text (omit $read "vars" "targets" "sources" "sagas" "routes" "rules" "check" | toJson)) }}
{{- end }}
{{- $fixed | toJson | sha256sum }}
{{- end }}

{{- define "bridge.check" -}}
{{- $roles := .Values.roles }}
{{- if not (or $roles.all.enabled $roles.intake.enabled $roles.worker.enabled) }}{{ fail "no role is enabled: set roles.all.enabled, or roles.intake.enabled and roles.worker.enabled" }}{{ end }}
{{- if and $roles.all.enabled (or $roles.intake.enabled $roles.worker.enabled) }}{{ fail "roles.all is intake and worker already: enable it alone" }}{{ end }}
{{- if and .Values.persistence.enabled (or (not $roles.all.enabled) (gt (int $roles.all.replicas) 1) .Values.autoscaling.all.enabled) }}{{ fail "persistence is for an embedded engine, which one pod has alone: enable roles.all with one replica, and no autoscaling" }}{{ end }}
{{- range $name, $text := .Values.config }}
{{- $read := fromYaml $text }}
{{- range $engine := concat (list ($read.engine | default dict)) (values ($read.engines | default dict)) }}
{{- if and (kindIs "map" $engine) (eq (toString $engine.type) "embedded") (not (and $roles.all.enabled $.Values.persistence.enabled)) }}{{ fail (printf "%s has an embedded engine, whose instances would be lost with the pod: enable roles.all and persistence" $name) }}{{ end }}
{{- end }}
{{- end }}
{{- range $role := list "all" "intake" "worker" }}
{{- $scaled := index $.Values.autoscaling $role }}
{{- if and $scaled.enabled (not $scaled.triggers) (not (and (eq $role "worker") $scaled.work.enabled)) }}{{ fail (printf "autoscaling.%s.triggers is empty" $role) }}{{ end }}
{{- if and $scaled.enabled (eq (int $scaled.min) 0) (ne $role "intake") }}{{ fail (printf "autoscaling.%s.min is 0: early messages, timers and replays would stop with the last pod; set it to 1 or more" $role) }}{{ end }}
{{- if and $scaled.enabled (gt (int $scaled.min) (int $scaled.max)) }}{{ fail (printf "autoscaling.%s.min is above its max" $role) }}{{ end }}
{{- end }}
{{- if and .Values.autoscaling.worker.enabled .Values.autoscaling.worker.work.enabled (not .Values.autoscaling.worker.work.token.secret) }}{{ fail "autoscaling.worker.work.token.secret is empty: name a Secret with a token of the role reader" }}{{ end }}
{{- if not (or .Values.existingConfigMap (index .Values.config "bridge.yaml")) }}{{ fail "there is no configuration: set config.\"bridge.yaml\", for example with --set-file config.bridge\\.yaml=bridge.yaml, or existingConfigMap" }}{{ end }}
{{- end }}
