// A receipt is asked of the API, and checked without it: whoever was handed one needs the public keys and nothing else of Abide.
import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { z } from 'zod';
import { RECEIPT_KEYS_PATH } from '../api/public/receipt-keys.ts';
import { SALT } from '../receipts/receipt.ts';
import type { ReceiptStatement } from '../receipts/receipt.ts';
import { isAbout, verifyReceipt } from '../receipts/verify.ts';
import { AbideError } from '../suppression/errors.ts';
import { readBounded } from '../suppression/read-bounded.ts';
import { normalise } from '../suppression/subject.ts';
import type { Subject } from '../suppression/subject.ts';
import { apiUrlOf, createAsk, unlessNotThere, URL_HELP, withApi } from './api-client.ts';
import type { ApiOptions } from './api-client.ts';
import { identify, KIND_WORDS, SUBJECT_HELP } from './identify.ts';
import { print, printJson, printTable, sayNo } from './output.ts';
import { readCount } from './read-arguments.ts';

const WAIT_SECONDS_MAX = 30;
const KEYS_MS_MAX = 10_000;
/** More than any receipt or set of keys has: what never ends would fill the memory. */
const READ_MIB_MAX = 16;

export function addReceipt(program: Command): void {
  withApi(program.command('receipt'))
    .description(
      'Print a signed statement of an opt-out and how far it has come, as JSON. `abide verify` checks it, wherever it is. Exit code 3: there is no such opt-out.',
    )
    .argument('<id>', "the opt-out's")
    .addOption(
      new Option(
        '--wait <seconds>',
        'wait until every required store has confirmed, for at most this long',
      ).argParser((typed) => {
        const seconds = readCount(1)(typed);
        if (seconds > WAIT_SECONDS_MAX) throw new InvalidArgumentError(`At most ${WAIT_SECONDS_MAX}.`);
        return seconds;
      }),
    )
    .action(async (id: string, options: ApiOptions & { wait?: number }) => {
      const { wait = 0 } = options;
      const receipt = await createAsk(options, { heldSeconds: wait })((abide) =>
        unlessNotThere(abide.optOuts.receipt(id, wait === 0 ? {} : { waitSeconds: wait })),
      );
      // Standard output is kept as the receipt.
      if (receipt === undefined) return sayNo(`no opt-out ${id}, or it is another client's`, { json: true });
      printJson(receipt);
    });
}

export function addVerify(program: Command): void {
  program
    .command('verify')
    .description(
      'Check a receipt. Exit code 0: its key signed exactly this. 3: it proves nothing, or not that it is about them.',
    )
    .argument('[file]', 'what `abide receipt` printed; - or nothing: standard input', '-')
    .option(
      '--keys <file or url>',
      `the public keys (default: those that the API has at ${RECEIPT_KEYS_PATH})`,
    )
    .option('--subject <subject>', `is it about this one? ${SUBJECT_HELP}`, toSubject)
    .option('--url <url>', URL_HELP)
    .option('--json', 'print JSON')
    .action(
      async (file: string, options: { keys?: string; subject?: Subject; url?: string; json?: boolean }) => {
        const { subject } = options;
        if (file === '-' && options.keys === '-')
          throw new Error(
            'Standard input has either the receipt or the public keys: name a file for one of them.',
          );
        const { receipt, salt } = readReceipt(await read(file));
        // With half of it every answer would be that the receipt is about somebody else.
        if (subject !== undefined && !SALT.test(salt))
          throw new Error(
            `${nameOf(file)} has no salt, or not all of it: without it nobody can tell whom the receipt is about. A key with opt_outs:write of the client that recorded the opt-out gets one.`,
          );
        const keys = await readKeys(
          options.keys ?? apiUrlOf(options).replace(/\/+$/, '') + RECEIPT_KEYS_PATH,
        );
        try {
          const { statement, kid } = await verifyReceipt(receipt, keys);
          const about = subject && isAbout(statement, salt, subject);
          if (options.json === true) printJson({ valid: true, kid, about: about ?? null, statement });
          else sayStatement(statement, kid);
          if (subject !== undefined) sayAbout(about, subject, options);
        } catch (error) {
          if (!(error instanceof AbideError) || error.code !== 'RECEIPT_INVALID') throw error;
          if (options.json === true) printJson({ valid: false });
          sayNo(`NOT valid: ${error.message}`, options);
        }
      },
    );
}

/** In its normal form. A number needs its country here: no configuration is read. */
function toSubject(text: string): Subject {
  const [kind, given] = identify(text);
  const normal = normalise(kind, given);
  if (!normal.ok) throw new InvalidArgumentError(`It ${normal.detail}.`);
  return { kind, value: normal.value };
}

function sayStatement({ as_of: asOf, opt_out: optOut, propagation }: ReceiptStatement, kid: string): void {
  const kinds = optOut.identifiers.map(({ kind }) => KIND_WORDS[kind]).join(', ');
  print(`valid: signed by key ${kid}`);
  print(`as of ${asOf}: ${optOut.in_force ? 'in force' : 'NOT in force any more'}, ${propagation.state}`);
  print(`opt-out ${optOut.id} of ${optOut.requested_scopes.join(', ')}`);
  print(`for ${kinds}, recorded ${optOut.recorded_at}`);
  if (propagation.uncovered.length > 0) print(`in no store: ${propagation.uncovered.join(', ')}`);
  printTable(
    ['STORE', 'STATE', 'CONFIRMED'],
    propagation.stores.map(({ store, required, state, decisions }) => {
      const times = decisions.map(({ acknowledged_at: at }) => at);
      return [
        required ? store : `${store} (optional)`,
        state,
        times.includes(null) ? '-' : (times.sort().at(-1) ?? '-'),
      ];
    }),
  );
}

function sayAbout(about: boolean | undefined, { kind }: Subject, options: { json?: boolean }): void {
  const words = `about this ${KIND_WORDS[kind]}`;
  if (about === undefined)
    sayNo(`it cannot be told whether it is ${words}: one was erased before the receipt was made`, options);
  else if (!about) sayNo(`NOT ${words}`, options);
  else if (options.json !== true) print(words);
}

const Printed = z.object({ receipt: z.string(), salt: z.string().nullish() });

/** What `abide receipt` printed, or the receipt alone. An empty salt is none. */
function readReceipt(text: string): { readonly receipt: string; readonly salt: string } {
  try {
    const { receipt, salt } = Printed.parse(JSON.parse(text));
    return { receipt, salt: salt ?? '' };
  } catch {
    return { receipt: text.trim(), salt: '' };
  }
}

const nameOf = (file: string): string => (file === '-' ? 'standard input' : file);

async function read(file: string): Promise<string> {
  const text = await textOf(file === '-' ? process.stdin : createReadStream(file)).catch((cause: unknown) => {
    throw new Error(`${nameOf(file)} cannot be read.`, { cause });
  });
  return text ?? tooLarge(nameOf(file));
}

const textOf = (source: AsyncIterable<Uint8Array>): Promise<string | undefined> =>
  readBounded(source, READ_MIB_MAX * 1024 * 1024);

function tooLarge(name: string): never {
  throw new Error(`${name} has more than ${READ_MIB_MAX} MiB: no receipt and no public keys are so large.`);
}

async function readKeys(from: string): Promise<unknown> {
  const text = /^https?:/.test(from) ? await fetchKeys(from) : await read(from);
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new Error(`${nameOf(from)} has no public keys: it is not JSON.`, { cause });
  }
}

async function fetchKeys(url: string): Promise<string> {
  const answer = await fetch(url, { signal: AbortSignal.timeout(KEYS_MS_MAX) }).catch((cause: unknown) => {
    throw new Error(`Nobody answers at ${url}: name the file with the public keys by --keys.`, { cause });
  });
  if (!answer.ok) throw new Error(`${url} has no public keys: it answered ${answer.status}.`);
  const text = await textOf(answer.body ?? Readable.from([])).catch((cause: unknown) => {
    throw new Error(`${url} did not answer to the end: name the file with the public keys by --keys.`, {
      cause,
    });
  });
  return text ?? tooLarge(url);
}
