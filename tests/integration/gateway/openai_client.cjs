// Transcribes a file with the official client: node openai_client.cjs URL KEY MODEL FILE
const fs = require("node:fs");
const OpenAI = require("openai");

async function main([baseURL, apiKey, model, path]) {
  // A model at zero takes longer than this: the client retries, and each retry joins the job of the first request.
  const client = new OpenAI({ baseURL: `${baseURL}/v1`, apiKey, timeout: 2000, maxRetries: 10 });
  const models = await client.models.list();
  // In memory: the client does not retry a stream.
  const request = { model, file: await OpenAI.toFile(fs.readFileSync(path), "speech.flac") };
  const { data, response } = await client.audio.transcriptions.create(request).withResponse();
  const deltas = [];
  for await (const event of await client.audio.transcriptions.create({ ...request, stream: true })) {
    deltas.push(event.type);
  }
  const failure = await client.audio.transcriptions.create({ ...request, model: "gpt-4o" }).catch((error) => error);
  console.log(JSON.stringify({
    models: models.data.map((one) => one.id),
    text: data.text,
    job: response.headers.get("x-job-id"),
    events: deltas,
    failure: { status: failure.status, code: failure.code },
  }));
}

main(process.argv.slice(2));
