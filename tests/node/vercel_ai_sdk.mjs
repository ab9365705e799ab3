// The Vercel AI SDK with each of its providers that speaks a protocol of ours: what its users do every day.
import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import {
  APICallError,
  embedMany,
  experimental_transcribe as transcribe,
  generateImage,
  generateObject,
  generateText,
  Output,
  stepCountIs,
  streamObject,
  streamText,
  tool,
} from "ai";
import { z } from "zod";
import { ARGUMENTS, CALL, given, OPENAI, perModel, run, told, toldJson } from "./checks.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const options = { baseURL: `${given.root}/v1`, apiKey: given.key };
const compatible = createOpenAICompatible({
  ...options,
  name: "tollbridge",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const openai = createOpenAI(options);
const anthropic = createAnthropic(options);
const PROVIDERS = {
  compatible: (model) => compatible(model),
  chat: (model) => openai.chat(model),
  responses: (model) => openai.responses(model),
  anthropic: (model) => anthropic(model),
};
// Responses are not stored here; without this the SDK refers to items by their ids.
const STATELESS = { openai: { store: false } };
const WEATHER = z.object({ city: z.string(), days: z.array(z.number()) });

const idOf = (headers) => headers["x-request-id"] ?? headers["request-id"];
const paid = (headers, usage) => ({
  id: idOf(headers),
  usage: [usage.inputTokens, usage.inputTokenDetails.cacheReadTokens, usage.outputTokens],
});

function checksOf(provider, of) {
  const ask = (model, more) => ({ model: of(model), prompt: told(model), maxRetries: 0, ...more });

  async function text(model) {
    const answer = await generateText(ask(model, { system: "Be brief." }));
    assert.ok(answer.text);
    assert.equal(answer.finishReason, "stop");
    return paid(answer.response.headers, answer.usage);
  }

  async function stream(model) {
    const answer = streamText(ask(model, { onError: () => {} }));
    let said = "";
    for await (const piece of answer.textStream) said += piece;
    assert.ok(said);
    assert.equal(await answer.finishReason, "stop");
    return paid((await answer.response).headers, await answer.usage);
  }

  // An agent's loop: the tool is called, and the model goes on with its result.
  async function tools(model) {
    for (const send of [generateText, streamText]) {
      const seen = [];
      const weather = tool({ inputSchema: WEATHER, execute: async (input) => seen.push(input) && "sunny" });
      const prompt = told(model, { calls: [CALL] });
      const asked = ask(model, { prompt, tools: { weather }, stopWhen: stepCountIs(3), providerOptions: STATELESS });
      const answer = await send(asked);
      assert.ok(await answer.text);
      assert.equal((await answer.steps).length, 2);
      assert.deepEqual(seen, [ARGUMENTS]);
    }
  }

  async function object(model) {
    const prompt = toldJson(model, ARGUMENTS);
    const made = await generateObject(ask(model, { prompt, schema: WEATHER }));
    assert.deepEqual(made.object, ARGUMENTS);
    const streamed = streamObject(ask(model, { prompt, schema: WEATHER }));
    for await (const _ of streamed.partialObjectStream);
    assert.deepEqual(await streamed.object, ARGUMENTS);
    const output = await generateText(ask(model, { prompt, output: Output.object({ schema: WEATHER }) }));
    assert.deepEqual(output.output, ARGUMENTS);
  }

  async function sees(model) {
    const image = { type: "file", data: "iVBORw0KGgo=", mediaType: "image/png" };
    const content = [{ type: "text", text: told(model) }, image];
    const { prompt: _, ...asked } = ask(model);
    assert.ok((await generateText({ ...asked, messages: [{ role: "user", content }] })).text);
  }

  const named = { text, stream, tools, object, sees };
  return Object.assign({}, ...Object.entries(named).map(([name, check]) => perModel(`${provider} ${name}`, check)));
}

async function rest() {
  const { embeddings } = await embedMany({
    model: compatible.embeddingModel("sandbox-embedding"),
    values: ["one two", "three"],
  });
  assert.equal(embeddings.length, 2);
  for (const each of [compatible, openai]) {
    const { image } = await generateImage({ model: each.imageModel("sandbox-image"), prompt: "a bridge" });
    assert.equal(Buffer.from(image.uint8Array).toString("latin1", 1, 4), "PNG");
  }
  const audio = Buffer.from(given.sound, "base64");
  assert.ok((await transcribe({ model: openai.transcription("whisper-1"), audio })).text);
}

async function stored() {
  const weather = tool({ inputSchema: WEATHER, execute: async () => "sunny" });
  const prompt = told(OPENAI, { calls: [CALL] });
  const asked = { model: openai(OPENAI), prompt, tools: { weather }, stopWhen: stepCountIs(3), maxRetries: 0 };
  await assert.rejects(generateText(asked), /store: false/);
}

async function errors() {
  for (const of of Object.values(PROVIDERS)) {
    const refused = (status) => (error) => {
      assert.ok(APICallError.isInstance(error), String(error));
      assert.equal(error.statusCode, status);
      assert.equal(error.isRetryable, false);
      return true;
    };
    await assert.rejects(generateText({ model: of("nope"), prompt: "hi", maxRetries: 0 }), refused(404));
    await assert.rejects(
      generateText({ model: of(OPENAI), prompt: "hi", temperature: 3, maxRetries: 0, topP: -1 }),
      refused(400),
    );
    let seen = null;
    const onError = ({ error }) => {
      seen = error;
    };
    const prompt = told(OPENAI, { fail_after_chunks: 2 });
    const answer = streamText({ model: of(OPENAI), prompt, maxRetries: 0, onError });
    await answer.consumeStream();
    assert.ok(seen);
  }
}

await run({
  ...Object.assign({}, ...Object.entries(PROVIDERS).map((each) => checksOf(...each))),
  rest,
  stored,
  errors,
});
