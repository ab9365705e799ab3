// The OpenAI SDK for Node: what its users do every day.
import assert from "node:assert/strict";
import { createWriteStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import OpenAI, { toFile } from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { ARGUMENTS, CALL, given, MODELS, OPENAI, perModel, run, told, toldJson } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${given.root}/v1`, apiKey: given.key, maxRetries: 0 });
const WEATHER = z.object({ city: z.string(), days: z.array(z.number()) });
const parameters = z.toJSONSchema(WEATHER);
const TOOLS = [{ type: "function", function: { name: "weather", parameters } }];
const said = (model, script) => [{ role: "user", content: told(model, script) }];
const paid = (id, usage) => ({
  id,
  usage: [usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens, usage.completion_tokens],
  cost: usage.cost,
});

async function create(model) {
  const { data, response } = await client.chat.completions.create({ model, messages: said(model) }).withResponse();
  assert.equal(data.model, model);
  assert.equal(data.choices[0].finish_reason, "stop");
  assert.ok(data.choices[0].message.content);
  assert.equal(data._request_id, response.headers.get("x-request-id"));
  return paid(data._request_id, data.usage);
}

async function streamed(model) {
  const body = { model, messages: said(model), stream: true, stream_options: { include_usage: true } };
  const { data, response } = await client.chat.completions.create(body).withResponse();
  let text = "";
  let usage = null;
  for await (const chunk of data) {
    assert.equal(chunk.model, model);
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.ok(text);
  return paid(response.headers.get("x-request-id"), usage);
}

async function tools(model) {
  const messages = said(model, { calls: [CALL, CALL] });
  const answer = await client.chat.completions.create({ model, messages, tools: TOOLS });
  const calls = answer.choices[0].message.tool_calls;
  assert.deepEqual(calls.map((call) => JSON.parse(call.function.arguments)), [ARGUMENTS, ARGUMENTS]);
  const results = calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: "sunny" }));
  const turn = [...messages, answer.choices[0].message, ...results];
  const last = await client.chat.completions.create({ model, messages: turn, tools: TOOLS });
  assert.equal(last.choices[0].finish_reason, "stop");
}

async function toolsStreamed(model) {
  const stream = client.chat.completions.stream({ model, messages: said(model, { calls: [CALL] }), tools: TOOLS });
  const whole = await stream.finalChatCompletion();
  const [call] = whole.choices[0].message.tool_calls;
  assert.equal(whole.choices[0].finish_reason, "tool_calls");
  assert.deepEqual(JSON.parse(call.function.arguments), ARGUMENTS);
}

async function runTools(model) {
  const asked = [];
  const look = { name: "weather", parameters, parse: JSON.parse, function: (input) => asked.push(input) && "sunny" };
  const runner = client.chat.completions.runTools({
    model,
    messages: said(model, { calls: [CALL] }),
    tools: [{ type: "function", function: look }],
    stream: true,
  });
  assert.ok(await runner.finalContent());
  assert.deepEqual(asked, [ARGUMENTS]);
}

async function parsed(model) {
  const messages = [{ role: "user", content: toldJson(model, ARGUMENTS) }];
  const response_format = zodResponseFormat(WEATHER, "weather");
  const answer = await client.chat.completions.parse({ model, messages, response_format });
  assert.deepEqual(answer.choices[0].message.parsed, ARGUMENTS);
}

async function responses(model) {
  const tools = [{ type: "function", name: "weather", parameters, strict: false }];
  const stream = client.responses.stream({ model, input: told(model, { calls: [CALL] }), tools });
  const calls = (await stream.finalResponse()).output.filter((item) => item.type === "function_call");
  assert.deepEqual(calls.map((call) => JSON.parse(call.arguments)), [ARGUMENTS]);
  const answer = await client.responses.create({ model, input: told(model) });
  assert.ok(answer.output_text);
  const usage = answer.usage;
  const counts = [usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens];
  return { id: answer._request_id, usage: counts, cost: usage.cost };
}

async function leaves(model) {
  const stream = await client.chat.completions.create({ model, messages: said(model, { gap_ms: 50 }), stream: true });
  for await (const _ of stream) break;
}

async function rest() {
  const vectors = await client.embeddings.create({ model: "sandbox-embedding", input: ["one two", "three"] });
  assert.equal(vectors.data.length, 2);
  assert.equal(typeof vectors.data[0].embedding[0], "number");
  const file = await toFile(Buffer.from(given.sound, "base64"), "speech.wav");
  assert.ok((await client.audio.transcriptions.create({ model: "whisper-1", file })).text);
  const images = await client.images.generate({
    model: "sandbox-image",
    prompt: "a bridge",
    response_format: "b64_json",
  });
  assert.equal(Buffer.from(images.data[0].b64_json, "base64").toString("latin1", 1, 4), "PNG");
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(MODELS.every((model) => ids.includes(model)));
  assert.equal((await client.models.retrieve(OPENAI)).id, OPENAI);
}

// Each sound goes to a file as it comes; whoever runs this plays them.
async function speech() {
  const spoken = async (response_format) => {
    const body = { model: "tts-1", voice: "nova", input: given.text, response_format };
    const response = await client.audio.speech.create(body);
    await pipeline(response.body, createWriteStream(`${given.directory}/speech.${response_format}`));
    return [response_format, response.headers.get("x-request-id")];
  };
  const late = client.audio.speech.create({ model: "tts-1", voice: "nobody", input: given.text });
  await assert.rejects(late, (error) => error instanceof OpenAI.BadRequestError && error.param === "voice");
  return { spoken: Object.fromEntries(await Promise.all(given.sounds.map(spoken))) };
}

async function imageStreamed() {
  const body = { model: "sandbox-image", prompt: "a bridge", size: "64x64", stream: true, partial_images: 2 };
  const types = [];
  for await (const event of await client.images.generate(body)) {
    assert.equal(Buffer.from(event.b64_json, "base64").toString("latin1", 1, 4), "PNG");
    types.push(event.type);
  }
  assert.deepEqual(types, ["image_generation.completed"]);
}

async function video() {
  let made = await client.videos.create({ model: "sora-2", prompt: "waves", seconds: "4", size: "64x48" });
  while (["queued", "in_progress"].includes(made.status)) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    made = await client.videos.retrieve(made.id);
  }
  assert.equal(made.status, "completed");
  const content = await (await client.videos.downloadContent(made.id)).arrayBuffer();
  assert.equal(Buffer.from(content).toString("latin1", 4, 8), "ftyp");
  assert.equal((await client.videos.delete(made.id)).deleted, true);
}

async function errors() {
  const messages = [{ role: "user", content: "hi" }];
  const chat = (fields, options) => client.chat.completions.create({ model: OPENAI, messages, ...fields }, options);
  const stranger = new OpenAI({ baseURL: `${given.root}/v1`, apiKey: "tb_live_wrong", maxRetries: 2 });
  await assert.rejects(stranger.chat.completions.create({ model: OPENAI, messages }), OpenAI.AuthenticationError);
  await assert.rejects(chat({ model: "nope" }), (error) => error instanceof OpenAI.NotFoundError);
  await assert.rejects(chat({ temperature: 3 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    assert.ok(error.requestID);
    return true;
  });
  const broken = { messages: said(OPENAI, { fail_after_chunks: 2 }), stream: true };
  await assert.rejects(async () => {
    for await (const _ of await chat(broken));
  }, OpenAI.APIError);
}

await run({
  ...perModel("create", create),
  ...perModel("streamed", streamed),
  ...perModel("tools", tools),
  ...perModel("toolsStreamed", toolsStreamed),
  ...perModel("runTools", runTools),
  ...perModel("parsed", parsed),
  ...perModel("responses", responses),
  ...perModel("leaves", leaves),
  rest,
  speech,
  imageStreamed,
  video,
  errors,
});
