// Runs named checks side by side and prints one JSON object: what each returned, or how it failed.
const PLAIN = 711;
const CACHED = 300;
const OUTPUT = 23;

export const given = JSON.parse(process.argv[2]);
export const OPENAI = "alpha-chat";
export const ANTHROPIC = "claudius-chat";
export const SANDBOX = "sandbox-chat";
export const MODELS = [OPENAI, ANTHROPIC, SANDBOX];
export const ARGUMENTS = { city: 'Zürich ☂ "old town"', days: [1, 2, 3] };
export const CALL = { name: "weather", arguments: JSON.stringify(ARGUMENTS) };

// A text that tells the model's provider how to answer, as long as the tokens that it claims to have read.
export function told(model, script = {}) {
  const input = model === ANTHROPIC ? PLAIN : PLAIN + CACHED;
  const named = model === SANDBOX ? { prompt_tokens: input } : { input_tokens: input };
  const whole = { ...named, cached_tokens: CACHED, output_tokens: OUTPUT, ...script };
  const mark = model === SANDBOX ? "#sandbox" : "#script";
  return `${"x".repeat(PLAIN + CACHED)} ${mark} ${JSON.stringify(whole)}`;
}

// The same for an answer that is one JSON text.
export function toldJson(model, value) {
  const text = JSON.stringify(value);
  return told(model, model === SANDBOX ? { text, output_tokens: null } : { text, chunks: 1 });
}

// A check that waits for what never comes keeps nothing alive in Node, so a timer does, and ends it.
const LATE_AFTER_MS = 60_000;

export async function run(checks) {
  const one = async ([name, check]) => {
    const late = new Promise((_, reject) => setTimeout(reject, LATE_AFTER_MS, new Error("it hangs")));
    try {
      return [name, { ok: true, value: (await Promise.race([check(), late])) ?? null }];
    } catch (error) {
      return [name, { ok: false, error: String(error?.stack ?? error).slice(0, 2000) }];
    }
  };
  const ended = await Promise.all(Object.entries(checks).map(one));
  // A stream that a check has left may keep the process alive, so it is told to end.
  process.stdout.write(`${JSON.stringify(Object.fromEntries(ended))}\n`, () => process.exit(0));
}

// One check for each model.
export function perModel(name, check, models = MODELS) {
  return Object.fromEntries(models.map((model) => [`${name} ${model}`, () => check(model)]));
}
