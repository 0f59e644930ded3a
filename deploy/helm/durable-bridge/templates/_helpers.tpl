{{- define "bridge.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "bridge.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
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

{{- define "bridge.check" -}}
{{- $roles := .Values.roles }}
{{- if not (or $roles.all.enabled $roles.intake.enabled $roles.worker.enabled) }}{{ fail "no role is enabled: set roles.all.enabled, or roles.intake.enabled and roles.worker.enabled" }}{{ end }}
{{- if and $roles.all.enabled (or $roles.intake.enabled $roles.worker.enabled) }}{{ fail "roles.all is intake and worker already: enable it alone" }}{{ end }}
{{- if and .Values.persistence.enabled (or (not $roles.all.enabled) (gt (int $roles.all.replicas) 1) .Values.autoscaling.all.enabled) }}{{ fail "persistence is for an embedded engine, which one pod has alone: enable roles.all with one replica, and no autoscaling" }}{{ end }}
{{- range $role := list "all" "intake" "worker" }}
{{- $scaled := index $.Values.autoscaling $role }}
{{- if and $scaled.enabled (not $scaled.triggers) (not (and (eq $role "worker") $scaled.work.enabled)) }}{{ fail (printf "autoscaling.%s.triggers is empty" $role) }}{{ end }}
{{- if and $scaled.enabled (eq (int $scaled.min) 0) (ne $role "intake") }}{{ fail (printf "autoscaling.%s.min is 0: early messages, timers and replays would stop with the last pod; set it to 1 or more" $role) }}{{ end }}
{{- if and $scaled.enabled (gt (int $scaled.min) (int $scaled.max)) }}{{ fail (printf "autoscaling.%s.min is above its max" $role) }}{{ end }}
{{- end }}
{{- if and .Values.autoscaling.worker.enabled .Values.autoscaling.worker.work.enabled (not .Values.autoscaling.worker.work.token.secret) }}{{ fail "autoscaling.worker.work.token.secret is empty: name a Secret with a token of the role reader" }}{{ end }}
{{- if not (or .Values.existingConfigMap (index .Values.config "bridge.yaml")) }}{{ fail "there is no configuration: set config.\"bridge.yaml\", for example with --set-file config.bridge\\.yaml=bridge.yaml, or existingConfigMap" }}{{ end }}
{{- end }}
