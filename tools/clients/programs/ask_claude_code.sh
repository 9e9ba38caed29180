# Claude Code holds a session of two turns.
set -eu
export ANTHROPIC_BASE_URL=$LLCUDA_URL ANTHROPIC_AUTH_TOKEN=$LLCUDA_KEY ANTHROPIC_MODEL=long ANTHROPIC_SMALL_FAST_MODEL=long
export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1 CLAUDE_CODE_MAX_OUTPUT_TOKENS=2000
claude --print --tools Read --system-prompt "Be brief." "What is 2+2?"
claude --print --tools Read --system-prompt "Be brief." --continue "What is 3+3?"
