// Vercel's AI SDK asks for texts, streams, values and calls, by each of its providers.
import assert from "node:assert";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, jsonSchema, streamText, tool } from "ai";

const connection = { baseURL: `${process.env.LLCUDA_URL}/v1`, apiKey: process.env.LLCUDA_KEY };
const openai = createOpenAI(connection);
const models = {
  responses: openai("demo"),
  chat: openai.chat("demo"),
  compatible: createOpenAICompatible({ ...connection, name: "llcuda", supportsStructuredOutputs: true })("demo"),
  anthropic: createAnthropic(connection)("demo"),
};
const asked = { prompt: "What is 2+2?", temperature: 0, maxOutputTokens: 60, maxRetries: 0 };
const integer = { type: "integer" };
const object = (properties) =>
  jsonSchema({ type: "object", properties, required: Object.keys(properties), additionalProperties: false });
const add = tool({ description: "Add.", inputSchema: object({ a: integer, b: integer }), execute: ({ a, b }) => a + b });
for (const [name, model] of Object.entries(models)) {
  const { text } = await generateText({ model, ...asked });
  let streamed = "";
  const stream = streamText({ model, ...asked, onError: ({ error }) => { throw error; } });
  for await (const piece of stream.textStream) streamed += piece;
  const value = (await generateObject({ model, ...asked, schema: object({ answer: integer }) })).object;
  const results = (await generateText({ model, ...asked, tools: { add } })).toolResults.map((result) => result.output);
  console.log(name, text, streamed, value, results);
  assert.deepStrictEqual([text, streamed, results], ["2 + 2 = 4.", "2 + 2 = 4.", [4]]);
  assert.ok(Number.isInteger(value.answer));
}
