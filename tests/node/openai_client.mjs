// Completes and streams one chat with the official SDK, and prints what came as JSON.
import OpenAI from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Say something." }];

const answer = await client.chat.completions.create({ model, messages });
let streamed = "";
let cost = 0;
const stream = await client.chat.completions.create({
  model,
  messages,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  cost = chunk.usage?.cost ?? cost;
}
console.log(JSON.stringify({ completed: answer.choices[0].message.content, streamed, cost }));
