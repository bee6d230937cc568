// The commands that ask the API as any client would.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { AbideProblem, createAbide } from '../client/client.ts';
import type { Abide } from '../client/client.ts';
import { dataFolderOf } from '../config/data-folder.ts';

export type ApiOptions = { url?: string; key?: string };

export const withApi = (command: Command): Command =>
  command
    .option('--url <url>', 'where the API is (ABIDE_URL; default http://127.0.0.1:8080)')
    .option('--key <key>', "an API key (ABIDE_KEY; default the data folder's admin.key)");

/** Asks the API; what goes wrong is an error in words for people. */
export type Ask = <T>(question: (abide: Abide) => Promise<T>) => Promise<T>;

/** Somebody waits and can type it again: a hiccup is bridged, no more. */
const PATIENCE = { triesMax: 3, tryTimeoutMs: 40_000, timeoutMs: 60_000 };

/** Somebody waits for what goes on by itself: a restart is bridged as well. */
export const LONG_PATIENCE = { triesMax: 100, tryTimeoutMs: 40_000, timeoutMs: 60_000 };

/**
 * `--url` or ABIDE_URL, `--key` or ABIDE_KEY, or the administrator's key of the data folder. `say` is what a command has to say
 * of a problem that means something there.
 */
export function createAsk(
  options: ApiOptions,
  {
    patience = PATIENCE,
    say = () => undefined,
  }: {
    readonly patience?: typeof PATIENCE;
    readonly say?: (problem: AbideProblem) => Error | undefined;
  } = {},
): Ask {
  const url = options.url ?? process.env.ABIDE_URL ?? `http://127.0.0.1:${process.env.PORT ?? '8080'}`;
  const abide = createAbide({
    url,
    key: options.key ?? process.env.ABIDE_KEY ?? keptAdminKey(),
    ...patience,
  });
  return (question) =>
    question(abide).catch((error: unknown) => {
      throw error instanceof AbideProblem ? (say(error) ?? inWords(error, url)) : error;
    });
}

/** What runs until it is interrupted asks again. */
export class NobodyAnswersError extends Error {}

function inWords(problem: AbideProblem, url: string): Error {
  const { code, status, message, errors } = problem;
  if (code === 'no-answer')
    return new NobodyAnswersError(
      `Nobody answers at ${url}: is \`npm start\` running? Where it listens is named by --url or ABIDE_URL.`,
      // Its code says why: refused, no such host, …
      { cause: problem.cause },
    );
  if (code === 'unexpected-answer')
    return new Error(`What answers at ${url} is not Abide: name where it listens by --url or ABIDE_URL.`);
  const why =
    status === 401
      ? 'it does not know the key: of another Abide, expired or revoked?'
      : status === 403
        ? `${message} \`abide keys create --client NAME --scope …\` makes a key that has it.`
        : message;
  const faults = errors.map(({ pointer, detail }) => `\n  ${pointer}: ${detail}`);
  return new Error(`The API answered ${status ?? 'nothing'}: ${why}${faults.join('')}`);
}

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
