// The story of a fine-tuning by OpenAI's client for Node, told to the Starloop at STARLOOP_URL with the file STARLOOP_ROWS.
// Prints what it saw as one JSON object; whatever a call raises ends it.
import { createReadStream, readFileSync } from "node:fs";
import OpenAI, { NotFoundError, toFile } from "openai";

const client = new OpenAI({ apiKey: "none", baseURL: `${process.env.STARLOOP_URL}/v1`, maxRetries: 0 });
const rows = process.env.STARLOOP_ROWS;
const question = [{ role: "user", content: process.env.STARLOOP_QUESTION }];
const model = "assistant";
const called = new Set();
const seen = {};

// Notes a call that worked under the method's name.
async function call(name, made) {
  const answer = await made;
  called.add(name);
  return answer;
}

async function all(name, made) {
  const found = [];
  for await (const one of made) found.push(one);
  called.add(name);
  return found;
}

async function until(read, there) {
  for (let tries = 0; tries < 2000; tries += 1) {
    const found = await read();
    if (there(found)) return found;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error("it never came to that");
}

const { files, uploads, models, batches } = client;
const { jobs } = client.fineTuning;
const { completions } = client.chat;

// files and uploads
const file = await call("files.create", files.create({ file: createReadStream(rows), purpose: "fine-tune" }));
await call("files.waitForProcessing", files.waitForProcessing(file.id));
await call("files.retrieve", files.retrieve(file.id));
const content = await (await call("files.content", files.content(file.id))).text();
seen.same = content === readFileSync(rows, "utf8");
seen.listed = (await all("files.list", files.list({ purpose: "fine-tune" }))).map((one) => one.id).includes(file.id);
const bytes = readFileSync(rows);
const parted = { bytes: bytes.length, filename: "rows.jsonl", mime_type: "application/jsonl", purpose: "fine-tune" };
const upload = await call("uploads.create", uploads.create(parted));
const half = Math.floor(bytes.length / 2);
const parts = [];
for (const part of [bytes.subarray(0, half), bytes.subarray(half)]) {
  const data = await toFile(part, "part");
  parts.push(await call("uploads.parts.create", uploads.parts.create(upload.id, { data })));
}
const whole = await call("uploads.complete", uploads.complete(upload.id, { part_ids: parts.map((one) => one.id) }));
seen.uploaded = whole.file.bytes;
const given = await uploads.create(parted);
seen.given_up = (await call("uploads.cancel", uploads.cancel(given.id))).status;

// fine-tuning: one that trains while another waits, is paused, resumed and cancelled
const asked = await call(
  "fineTuning.jobs.create",
  jobs.create({
    model,
    training_file: file.id,
    suffix: "node",
    metadata: { from: "node" },
    method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 2 } } },
  }),
);
const other = await jobs.create({ model, training_file: whole.file.id });
seen.paused = (await call("fineTuning.jobs.pause", jobs.pause(other.id))).status;
seen.resumed = (await call("fineTuning.jobs.resume", jobs.resume(other.id))).status;
seen.cancelled = (await call("fineTuning.jobs.cancel", jobs.cancel(other.id))).status;
const job = await until(
  () => call("fineTuning.jobs.retrieve", jobs.retrieve(asked.id)),
  (one) => ["succeeded", "failed", "cancelled"].includes(one.status),
);
seen.job = job;
const mine = await all("fineTuning.jobs.list", jobs.list({ limit: 1, metadata: { from: "node" } }));
seen.jobs = mine.map((one) => one.id);
const events = await all("fineTuning.jobs.listEvents", jobs.listEvents(job.id, { limit: 5 }));
seen.steps = events.filter((one) => one.type === "metrics").map((one) => one.data.step).reverse();
const checkpoints = await all("fineTuning.jobs.checkpoints.list", jobs.checkpoints.list(job.id));
const tuned = job.fine_tuned_model;
seen.checkpoints = checkpoints.map((one) => one.fine_tuned_model_checkpoint);
const figures = await (await files.content(job.result_files[0])).text();
seen.figures = figures.split("\n")[0];

// the tuned model: listed, called, as a stream, with what is stored
await call("models.retrieve", models.retrieve(tuned));
seen.models = (await all("models.list", models.list())).map((one) => one.id);
const asking = { model: tuned, messages: question, max_tokens: 32, temperature: 0 };
const answer = await call(
  "chat.completions.create",
  completions.create({ ...asking, store: true, metadata: { team: "a" } }),
);
seen.answer = answer.choices[0].message.content;
seen.streamed = "";
for await (const chunk of await completions.create({ ...asking, stream: true })) {
  seen.streamed += chunk.choices[0]?.delta?.content ?? "";
}
await call("chat.completions.stream", completions.stream(asking).finalChatCompletion());
await call("chat.completions.parse", completions.parse(asking));
const stored = await call("chat.completions.retrieve", completions.retrieve(answer.id));
seen.stored = stored.choices[0].message.content;
const renamed = await call(
  "chat.completions.update",
  completions.update(answer.id, { metadata: { team: "b" } }),
);
seen.metadata = renamed.metadata;
const found = await all("chat.completions.list", completions.list({ metadata: { team: "b" } }));
seen.found = found.map((one) => one.id === answer.id);
const messages = await all("chat.completions.messages.list", completions.messages.list(answer.id));
seen.messages = messages.map((one) => one.content);
seen.forgotten = (await call("chat.completions.delete", completions.delete(answer.id))).deleted;

// batches
const line = (number) => ({
  custom_id: `r${number}`,
  method: "POST",
  url: "/v1/chat/completions",
  body: { ...asking, max_tokens: 4 },
});
const lines = [1, 2, 3].map((number) => JSON.stringify(line(number))).join("\n");
const input = await files.create({ file: await toFile(Buffer.from(lines), "batch.jsonl"), purpose: "batch" });
const endpoint = "/v1/chat/completions";
const begun = await call(
  "batches.create",
  batches.create({ input_file_id: input.id, endpoint, completion_window: "24h" }),
);
const batch = await until(
  () => call("batches.retrieve", batches.retrieve(begun.id)),
  (one) => ["completed", "failed", "expired", "cancelled"].includes(one.status),
);
seen.batch = batch.request_counts;
const output = await (await files.content(batch.output_file_id)).text();
seen.answers = output.trim().split("\n").map((one) => JSON.parse(one).custom_id);
const halted = await batches.create({ input_file_id: input.id, endpoint, completion_window: "24h" });
try {
  await call("batches.cancel", batches.cancel(halted.id));
} catch (error) {
  if (error.status !== 409) throw error; // it was quicker, and is over
  called.add("batches.cancel");
}
seen.batches = (await all("batches.list", batches.list({ limit: 1 }))).length;

// errors as its own classes, with the parameter's name
try {
  await jobs.create({ model, training_file: "file-nothing" });
} catch (error) {
  seen.refused = { status: error.status, param: error.param, code: error.code };
}
seen.deleted = (await call("models.delete", models.delete(tuned))).deleted;
try {
  await models.retrieve(tuned);
} catch (error) {
  seen.gone = error instanceof NotFoundError;
}
await call("files.delete", files.delete(file.id));

console.log(JSON.stringify({ ...seen, called: [...called] }));
