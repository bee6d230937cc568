// The example of docs/http-connector.md as it runs for its readers: a process of its own, its suppressions in a file.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

type Rows = Record<string, { version: number | null; scopes: Record<string, boolean> }>;

export type HttpStore = AsyncDisposable & {
  readonly url: string;
  readonly secret: string;
  readonly file: string;
  /** What it holds, by `kind:key`. */
  rows(): Promise<Rows>;
  /** Sets one scope as the store's own page would. */
  setScope(name: string, scope: string, isSuppressed: boolean): Promise<void>;
};

const PROGRAM = fileURLToPath(new URL('../../docs/examples/http-store.mjs', import.meta.url));

export async function startHttpStore(secret = 'whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cw=='): Promise<HttpStore> {
  await using stack = new AsyncDisposableStack();
  const folder = await mkdtemp(join(tmpdir(), 'abide-http-store-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, 'suppressions.json');
  const child = spawn(process.execPath, [PROGRAM], {
    env: { SECRET: secret, PORT: '0', FILE: file },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(child, 'close');
  stack.defer(async () => {
    child.kill();
    await ended;
  });
  const [said] = (await Promise.race([once(child.stdout, 'data'), ended])) as [Buffer | number | null];
  const [url] = /http:\S+/.exec(String(said)) ?? [];
  if (url === undefined) throw new Error(`the example store said: ${String(said)}`);
  const rows = async (): Promise<Rows> => {
    const text = await readFile(file, 'utf8').catch(() => '{}');
    return JSON.parse(text) as Rows;
  };
  const owned = stack.move();
  return {
    url,
    secret,
    file,
    rows,
    async setScope(name, scope, isSuppressed) {
      const all = await rows();
      (all[name] ??= { version: null, scopes: {} }).scopes[scope] = isSuppressed;
      await writeFile(file, JSON.stringify(all));
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
