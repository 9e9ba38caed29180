// Vercel's AI SDK asks for texts, streams, values and calls, by each of its providers, and prints what it got.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";

const [baseURL, apiKey] = process.argv.slice(2);
const openai = createOpenAI({ baseURL, apiKey });
const compatible = createOpenAICompatible({ baseURL, apiKey, name: "llcuda", includeUsage: true, supportsStructuredOutputs: true });
const providers = {
  responses: openai,
  chat: openai.chat,
  compatible,
  anthropic: createAnthropic({ baseURL, apiKey }),
};
const asked = { prompt: "What is 2+2?", temperature: 0, maxOutputTokens: 60, maxRetries: 0 };
const integer = { type: "integer" };
const object = (properties) =>
  jsonSchema({ type: "object", properties, required: Object.keys(properties), additionalProperties: false });
const add = tool({ description: "Add.", inputSchema: object({ a: integer, b: integer }), execute: ({ a, b }) => a + b });
const answers = {};
for (const [name, provider] of Object.entries(providers)) {
  const model = provider("demo");
  const whole = await generateText({ model, ...asked });
  const stream = streamText({ model, ...asked, onError: ({ error }) => { throw error; } });
  const pieces = [];
  for await (const piece of stream.textStream) pieces.push(piece);
  const { object: value } = await generateObject({ model, ...asked, schema: object({ answer: integer }) });
  const called = await generateText({ model, ...asked, tools: { add }, stopWhen: stepCountIs(2) });
  const error = await generateText({ ...asked, model: provider("other") }).catch((error) => error);
  answers[name] = {
    text: whole.text, finish: whole.finishReason, used: whole.usage.outputTokens, streamed: pieces.join(""),
    pieces: pieces.length, streamUsed: (await stream.usage).outputTokens, value,
    results: called.steps[0].toolResults.map((result) => result.output), answer: called.text,
    status: error.statusCode, message: error.message, isRetryable: error.isRetryable,
  };
}
console.log(JSON.stringify(answers));
