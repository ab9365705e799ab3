// Creates and streams one response with the official SDK, a tool call in it, and prints what came as JSON.
import OpenAI from "openai";

const [baseURL, apiKey, model, input] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const tools = [{ type: "function", name: "look", parameters: { type: "object" }, strict: false }];

const answer = await client.responses.create({ model, input, tools });
const stream = client.responses.stream({ model, input, tools });
let streamed = "";
stream.on("response.output_text.delta", (event) => {
  streamed += event.delta;
});
const final = await stream.finalResponse();
const calls = final.output.filter((item) => item.type === "function_call").map((item) => item.arguments);
console.log(JSON.stringify({ text: answer.output_text, streamed, calls, cost: final.usage.cost }));
