// Transcribes a file with the official client: node openai_client.cjs URL KEY MODEL FILE
const fs = require("node:fs");
const OpenAI = require("openai");

async function main([baseURL, apiKey, model, path]) {
  // A model at zero takes longer than this: the client retries, and each retry joins the job of the first request.
  let attempts = 0;
  const counted = (url, init) => {
    attempts += 1;
    return fetch(url, init);
  };
  const client = new OpenAI({ baseURL: `${baseURL}/v1`, apiKey, timeout: 2000, maxRetries: 10, fetch: counted });
  const models = await client.models.list();
  // In memory: the client does not retry a stream.
  const request = { model, file: await OpenAI.toFile(fs.readFileSync(path), "speech.flac") };
  const before = attempts;
  const { data, response } = await client.audio.transcriptions.create(request).withResponse();
  const tries = attempts - before;
  const events = [];
  for await (const event of await client.audio.transcriptions.create({ ...request, stream: true })) {
    events.push(event.type);
  }
  const failure = await client.audio.transcriptions.create({ ...request, model: "gpt-4o" }).catch((error) => error);
  console.log(JSON.stringify({
    models: models.data.map((one) => one.id),
    text: data.text,
    job: response.headers.get("x-job-id"),
    tries,
    events,
    failure: { status: failure.status, code: failure.code },
  }));
}

main(process.argv.slice(2));
