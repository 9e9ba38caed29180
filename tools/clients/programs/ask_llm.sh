# Simon Willison's llm asks for a text, a stream, a value, and once more in the same conversation.
set -eu
mkdir -p "$LLM_USER_PATH"
cat > "$LLM_USER_PATH/extra-openai-models.yaml" <<END
- model_id: local
  model_name: demo
  api_base: $LLCUDA_URL/v1
  api_key_name: llcuda
  supports_schema: true
  supports_tools: true
END
ask() { llm -m local --key "$LLCUDA_KEY" -o temperature 0 -o max_tokens 60 "$@" "What is 2+2?" | tee /dev/stderr | grep -q 4; }
ask
ask --no-stream
ask --schema "answer int"
ask -c
