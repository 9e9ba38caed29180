# Codex holds a session of two turns.
set -eu
cat > "$HOME/.codex/config.toml" <<END
model = "long"
model_provider = "llcuda"
[model_providers.llcuda]
name = "llcuda"
base_url = "$LLCUDA_URL/v1"
env_key = "LLCUDA_KEY"
wire_api = "responses"
END
codex exec --skip-git-repo-check "What is 2+2?"
codex exec --skip-git-repo-check resume --last "What is 3+3?"
