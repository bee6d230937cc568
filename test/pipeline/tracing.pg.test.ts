import { createServer } from 'node:http';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { rm } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { request } from 'undici';
import { startAbide } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { WHEN_COMPLETE } from '../harness/http.ts';

type Span = {
  name: string;
  traceId: string;
  spanId: string;
  parent?: string;
  links: string[];
  attributes: Record<string, unknown>;
};

const SDK = fileURLToPath(new URL('../harness/spans.mjs', import.meta.url));
const TRACE = '0af7651916cd43dd8448eb211c80319c';
const CLIENT_SPAN = 'b7ad6b7169203331';
const headers = { traceparent: `00-${TRACE}-${CLIENT_SPAN}-01` };

/** A store that says yes and holds what it was told, and remembers the trace contexts that it was called with. */
const contexts: string[] = [];
let store: Server;
beforeAll(async () => {
  const held = new Map<string, { version: number; suppressed: string[] }>();
  store = createServer((asked, response) => {
    contexts.push(String(asked.headers['traceparent']));
    const chunks: Buffer[] = [];
    asked
      .on('data', (chunk: Buffer) => chunks.push(chunk))
      .on('end', () => {
        const answer = (body: object): void => {
          response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body));
        };
        if (asked.method === 'GET') {
          const keys = JSON.parse(
            Buffer.from(String(asked.headers['abide-keys']), 'base64url').toString(),
          ) as { key: string }[];
          return answer({ held: keys.map(({ key }) => held.get(key) ?? null) });
        }
        const { items } = JSON.parse(Buffer.concat(chunks).toString()) as {
          items: { key: string; version: number; suppressed: Record<string, string> }[];
        };
        for (const { key, version, suppressed } of items)
          held.set(key, { version, suppressed: Object.keys(suppressed) });
        return answer({ outcomes: items.map(() => ({ kind: 'applied' })) });
      });
  });
  await new Promise<void>((resolve) => store.listen(0, '127.0.0.1', resolve));
});
afterAll(async () => {
  store.closeAllConnections();
  await new Promise((resolve) => store.close(resolve));
});

async function traceOneOptOut(tracing: boolean): Promise<{ spans: Span[]; text: string }> {
  const file = join(tmpdir(), `abide-spans-${process.pid}-${tracing}`);
  await rm(file, { force: true });
  const { port } = store.address() as AddressInfo;
  await using abide = await startAbide({
    env: { NODE_OPTIONS: `--import ${SDK}`, ABIDE_TEST_SPANS: file },
    config: `${tracing ? 'tracing: true\n' : ''}stores:
  mail: { connector: http, url: 'http://127.0.0.1:${port}/', secret: 'a secret of the tests', allow_private: true, scopes: [email] }
`,
  });
  try {
    const { statusCode, body } = await request(`${abide.url}/v1/opt-outs`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${abide.key}`,
        'content-type': 'application/json',
        ...WHEN_COMPLETE,
        ...headers,
      },
      body: JSON.stringify({ subject: { email: 'ada@example.com' }, note: 'from ada' }),
    });
    await body.dump();
    expect(statusCode).toBe(201);
    const read = async (): Promise<string> => await readFile(file, 'utf8').catch(() => '');
    if (tracing) await eventually(async () => expect(await read()).toContain('POST /v1/opt-outs'));
    const text = await read();
    return {
      text,
      spans: text
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as Span),
    };
  } finally {
    await rm(file, { force: true });
  }
}

test('one trace leads from the call of a client to the call of a store, by names alone', async () => {
  contexts.length = 0;
  const { spans, text } = await traceOneOptOut(true);
  const api = spans.find(({ name }) => name === 'POST /v1/opt-outs');
  expect(api).toMatchObject({
    traceId: TRACE,
    parent: CLIENT_SPAN,
    attributes: { 'http.route': '/v1/opt-outs', 'http.response.status_code': 201 },
  });
  const carried = spans.find(({ name }) => name === 'carry mail');
  expect(carried).toMatchObject({
    traceId: TRACE,
    parent: api!.spanId,
    attributes: { 'abide.store': 'mail', 'abide.decisions': 1 },
  });
  // Told and read back, both within the worker's span.
  expect(contexts).toEqual([`00-${TRACE}-${carried!.spanId}-01`, `00-${TRACE}-${carried!.spanId}-01`]);
  expect(text).not.toMatch(/ada@|example/);
});

test('it is off by default, whatever SDK is loaded', async () => {
  contexts.length = 0;
  expect((await traceOneOptOut(false)).spans).toEqual([]);
  expect(contexts).toEqual(['undefined', 'undefined']);
});
