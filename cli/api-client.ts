// The commands that ask the API as any client would.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { dataFolderOf } from '../config/data-folder.ts';

export type ApiOptions = { url?: string; key?: string };

export const withApi = (command: Command): Command =>
  command
    .option('--url <url>', 'where the API is (ABIDE_URL; default http://127.0.0.1:8080)')
    .option('--key <key>', "an API key (ABIDE_KEY; default the data folder's admin.key)");

export type ApiClient = {
  /** Answers status and parsed body; throws only where no answer came. */
  call(method: 'GET' | 'POST', path: string, body?: unknown): Promise<{ status: number; body: unknown }>;
  readonly url: string;
};

/** `--url` or ABIDE_URL, `--key` or ABIDE_KEY, or the administrator's key of the data folder. */
export function createApiClient(options: ApiOptions): ApiClient {
  const url = options.url ?? process.env.ABIDE_URL ?? `http://127.0.0.1:${process.env.PORT ?? '8080'}`;
  const key = options.key ?? process.env.ABIDE_KEY ?? keptAdminKey();
  return {
    url,
    call: async (method, path, body) => {
      const { request } = await import('undici');
      let response;
      try {
        response = await request(new URL(path, url), {
          method,
          headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
          body: body === undefined ? null : JSON.stringify(body),
          headersTimeout: 40_000,
        });
      } catch (cause) {
        throw new NobodyAnswersError(
          `Nobody answers at ${url}: is \`npm start\` running? Where it listens is named by --url or ABIDE_URL.`,
          { cause },
        );
      }
      const text = await response.body.text();
      try {
        return { status: response.statusCode, body: JSON.parse(text) };
      } catch (cause) {
        throw new Error(`What answers at ${url} is not Abide: name where it listens by --url or ABIDE_URL.`, {
          cause,
        });
      }
    },
  };
}

/** What runs until it is interrupted asks again. */
export class NobodyAnswersError extends Error {}

function keptAdminKey(): string {
  const file = join(dataFolderOf(process.env), 'admin.key');
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    throw new Error(
      `No key: there is no ${file} (ABIDE_DATA names another data folder); set ABIDE_KEY or pass --key.`,
    );
  }
}

/** The body of a 2xx, of the type that the caller knows the API to answer; a problem becomes an error that says what it says. */
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- one named place for the cast
export function expectOk<T>({ status, body }: { status: number; body: unknown }): T {
  if (status >= 200 && status < 300) return body as T;
  const problem = body as { title?: string; detail?: string; errors?: { pointer: string; detail: string }[] };
  const faults = (problem.errors ?? []).map(({ pointer, detail }) => `\n  ${pointer}: ${detail}`);
  const why =
    status === 401
      ? 'it does not know the key: of another Abide, expired or revoked?'
      : status === 403
        ? `${problem.detail} \`abide keys create --client NAME --scope …\` makes a key that has it.`
        : (problem.detail ?? problem.title ?? 'no reason given');
  throw new Error(`The API answered ${status}: ${why}${faults.join('')}`);
}
