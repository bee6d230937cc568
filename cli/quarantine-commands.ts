// quarantine: what a store keeps failing, seen and tried again through the API.
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { AbideProblem } from '../client/client.ts';
import type { AnswerOf } from '../client/client.ts';
import { PARKED_KINDS } from '../ledger/contract/quarantine.ts';
import { CODE } from '../suppression/errors.ts';
import { createAsk, withApi } from './api-client.ts';
import type { ApiOptions } from './api-client.ts';
import { EXIT, print, printJson, printTable, sayDuration, sayNo } from './output.ts';
import { readCount } from './read-arguments.ts';

type Parked = AnswerOf<'GET /v1/stores/{name}/quarantine'>['quarantine'][number];

const PAGE_MAX = 500;

const toSeq = (text: string): number => {
  if (/^[1-9]\d{0,14}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('Give a sequence number, as `abide quarantine list` prints it.');
};

const toCode = (text: string): string => {
  if (CODE.test(text)) return text;
  throw new InvalidArgumentError('A code is upper-case, such as STORE_FAILED.');
};

const ofStore = (command: Command): Command =>
  withApi(command).requiredOption('--store <name>', 'of which store').option('--json', 'print JSON');

type OfStore = ApiOptions & { store: string; json?: boolean };

export function addQuarantine(program: Command): void {
  const quarantine = program
    .command('quarantine')
    .description('What a store keeps failing: parked, with its clock running, tried again for ever');

  ofStore(quarantine.command('list'))
    .description('List what is parked, the oldest decision first')
    .addOption(
      new Option(
        '--kind <kind>',
        'quarantine: refused or failing; redrive: held once and lost; absent: nobody there',
      ).choices(PARKED_KINDS),
    )
    .option('--code <code>', 'only with this reason, e.g. NOT_HELD', toCode)
    .option('--limit <n>', 'at most this many', readCount(1), 100)
    .action(async (options: OfStore & { kind?: Parked['kind']; code?: string; limit: number }) => {
      const ask = createAsk(options);
      const { store, kind, code } = options;
      const found: Parked[] = [];
      let cursor: string | undefined;
      do {
        const query = {
          limit: Math.min(PAGE_MAX, options.limit - found.length),
          ...(kind === undefined ? {} : { kind }),
          ...(code === undefined ? {} : { code }),
          ...(cursor === undefined ? {} : { cursor }),
        };
        const page = await ask((abide) =>
          abide.call('GET /v1/stores/{name}/quarantine', { path: { name: store }, query }),
        );
        found.push(...page.quarantine);
        cursor = page.next_cursor ?? undefined;
      } while (cursor !== undefined && found.length < options.limit);
      if (options.json === true) return printJson(found);
      if (found.length === 0) return print(`nothing is parked in ${options.store}`);
      printTable(
        ['SEQ', 'KIND', 'CODE', 'AGE', 'ATTEMPTS', 'NEXT TRY', 'OPT-OUT'],
        found.map((one) => [
          String(one.seq),
          one.kind,
          one.code ?? '-',
          sayDuration(one.age_seconds),
          String(one.attempts),
          one.next_try_at,
          one.opt_out_id ?? '-',
        ]),
      );
      if (cursor !== undefined) print(`there is more: --limit ${options.limit} was reached`);
    });

  ofStore(quarantine.command('show'))
    .description('Show everything known about one of them')
    .argument('<seq>', 'its sequence number', toSeq)
    .action(async (seq: number, options: OfStore) => {
      const path = { name: options.store, seq };
      const parked = await createAsk(options)((abide) =>
        abide.call('GET /v1/stores/{name}/quarantine/{seq}', { path }).catch((error: unknown) => {
          if (error instanceof AbideProblem && error.code === 'not-found') return undefined;
          throw error;
        }),
      );
      if (parked === undefined) {
        return sayNo(
          `nothing is parked in ${options.store} under ${seq}: it was settled or never there, or there is no such store`,
          options,
        );
      }
      if (options.json === true) return printJson(parked);
      const { last_evidence: last, ...fields } = parked;
      for (const [name, value] of Object.entries(fields)) print(`${name.padEnd(15)} ${value ?? '-'}`);
      print(
        `last_evidence   ${
          last === null
            ? 'none: the store never proved anything about this subject'
            : `${last.outcome} version ${last.version} at ${last.acknowledged_at}, suppressed: ${last.held.suppressed.join(', ') || 'nothing'}`
        }`,
      );
    });

  ofStore(quarantine.command('retry'))
    .description('Try again now: one, all with a code, or everything. Exit code 3: nothing was there.')
    .argument('[seq]', 'its sequence number', toSeq)
    .option('--code <code>', 'all with this reason', toCode)
    .option('--all', 'everything that is parked in the store')
    .action(async (seq: number | undefined, options: OfStore & { code?: string; all?: true }) => {
      const { code, all } = options;
      const which = {
        ...(seq === undefined ? {} : { seq }),
        ...(code === undefined ? {} : { code }),
        ...(all === undefined ? {} : { all }),
      };
      if (Object.keys(which).length !== 1)
        throw new InvalidArgumentError('name exactly one: a sequence number, --code, or --all');
      const answer = await createAsk(options)((abide) =>
        abide.call('POST /v1/stores/{name}/quarantine/retry', {
          path: { name: options.store },
          body: which,
        }),
      );
      if (options.json === true) printJson(answer);
      else if (answer.retried === 0) print(`nothing of the kind is parked in ${options.store}`);
      else print(`${answer.retried} will be tried again now: watch \`abide quarantine list\``);
      if (answer.retried === 0) process.exitCode = EXIT.no;
    });
}
