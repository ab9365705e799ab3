// The Anthropic SDK for Node: what its users do every day.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";
import { ANTHROPIC, ARGUMENTS, CALL, given, MODELS, OPENAI, perModel, run, told, toldJson } from "./checks.mjs";

const client = new Anthropic({ baseURL: given.root, apiKey: given.key, maxRetries: 0 });
const WEATHER = z.object({ city: z.string(), days: z.array(z.number()) });
const TOOLS = [{ name: "weather", description: "The weather.", input_schema: z.toJSONSchema(WEATHER) }];
const said = (model, script) => [{ role: "user", content: told(model, script) }];
const paid = (id, usage) => ({
  id,
  usage: [usage.input_tokens + usage.cache_read_input_tokens, usage.cache_read_input_tokens, usage.output_tokens],
  cost: usage.cost,
});

async function create(model) {
  const message = await client.messages.create({ model, max_tokens: 100, system: "Be brief.", messages: said(model) });
  assert.deepEqual([message.type, message.role, message.model, message.stop_reason], [
    "message",
    "assistant",
    model,
    "end_turn",
  ]);
  assert.ok(message.content[0].text);
  return paid(message._request_id, message.usage);
}

async function streamed(model) {
  const stream = client.messages.stream({ model, max_tokens: 100, messages: said(model) });
  let text = "";
  let cost = 0;
  stream.on("text", (piece) => {
    text += piece;
  });
  stream.on("streamEvent", (event) => {
    if (event.type === "message_delta") cost = event.usage.cost;
  });
  const message = await stream.finalMessage();
  assert.equal(message.content[0].text, text);
  return { ...paid(stream.request_id, message.usage), cost };
}

async function rawStream(model) {
  const stream = await client.messages.create({ model, max_tokens: 100, messages: said(model), stream: true });
  const kinds = [];
  for await (const event of stream) kinds.push(event.type);
  assert.equal(kinds[0], "message_start");
  assert.deepEqual(kinds.slice(-2), ["message_delta", "message_stop"]);
}

async function tools(model) {
  const messages = said(model, { calls: [CALL, CALL] });
  const whole = await client.messages.create({ model, max_tokens: 100, messages, tools: TOOLS });
  const stream = client.messages.stream({ model, max_tokens: 100, messages, tools: TOOLS });
  for (const message of [whole, await stream.finalMessage()]) {
    const uses = message.content.filter((block) => block.type === "tool_use");
    assert.equal(message.stop_reason, "tool_use");
    assert.deepEqual(uses.map((use) => use.input), [ARGUMENTS, ARGUMENTS]);
    const results = uses.map((use) => ({ type: "tool_result", tool_use_id: use.id, content: "sunny" }));
    const turn = [...messages, { role: "assistant", content: message.content }, { role: "user", content: results }];
    const last = await client.messages.create({ model, max_tokens: 100, messages: turn, tools: TOOLS });
    assert.equal(last.stop_reason, "end_turn");
  }
}

async function parsed(model) {
  const message = await client.messages.parse({
    model,
    max_tokens: 100,
    messages: [{ role: "user", content: toldJson(model, ARGUMENTS) }],
    output_config: { format: zodOutputFormat(WEATHER) },
  });
  assert.deepEqual(message.parsed_output, ARGUMENTS);
}

async function thinks(model) {
  const message = await client.messages.create({
    model,
    max_tokens: 4000,
    thinking: { type: "enabled", budget_tokens: 2000 },
    messages: said(model, { thinking: "Hm." }),
  });
  assert.deepEqual(message.content.map((block) => block.type), ["thinking", "text"]);
  const turn = [...said(model), { role: "assistant", content: message.content }, ...said(model)];
  assert.ok((await client.messages.create({ model, max_tokens: 100, messages: turn })).content.length);
}

async function sees(model) {
  const source = { type: "base64", media_type: "image/png", data: "iVBORw0KGgo=" };
  const content = [{ type: "image", source }, { type: "text", text: told(model), cache_control: { type: "ephemeral" } }];
  assert.ok((await client.messages.create({ model, max_tokens: 100, messages: [{ role: "user", content }] })).content);
}

async function counts(model) {
  const counted = await client.messages.countTokens({ model, messages: said(model), tools: TOOLS });
  assert.ok(counted.input_tokens > 100);
}

async function lists() {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(MODELS.every((model) => ids.includes(model)));
  assert.equal((await client.models.retrieve(ANTHROPIC)).id, ANTHROPIC);
}

async function errors() {
  const ask = (fields, by = client) =>
    by.messages.create({ model: OPENAI, max_tokens: 5, messages: [{ role: "user", content: "hi" }], ...fields });
  const stranger = new Anthropic({ baseURL: given.root, apiKey: "tb_live_wrong", maxRetries: 2 });
  await assert.rejects(ask({}, stranger), Anthropic.AuthenticationError);
  await assert.rejects(ask({ model: "nope" }), Anthropic.NotFoundError);
  await assert.rejects(ask({ temperature: 2 }), (error) => {
    assert.ok(error instanceof Anthropic.BadRequestError);
    assert.match(error.message, /temperature/);
    assert.equal(error.type, "invalid_request_error");
    assert.ok(error.requestID);
    return true;
  });
  const stream = client.messages.stream({ model: OPENAI, max_tokens: 9, messages: said(OPENAI, { fail_after_chunks: 2 }) });
  await assert.rejects(stream.finalMessage(), Anthropic.APIError);
}

await run({
  ...perModel("create", create),
  ...perModel("streamed", streamed),
  ...perModel("rawStream", rawStream),
  ...perModel("tools", tools),
  ...perModel("parsed", parsed),
  ...perModel("thinks", thinks, [OPENAI, ANTHROPIC]),
  ...perModel("sees", sees),
  ...perModel("counts", counts),
  lists,
  errors,
});
