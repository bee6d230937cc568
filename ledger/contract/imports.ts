// Files of opt-outs, from the first piece that is received to the last row that is recorded.
import type { Instant } from '../../suppression/decision.ts';
import type { DeclaredScopes, Scope } from '../../suppression/scope.ts';
import type { Caller } from './audit.ts';
import type { OptOutIntent, Reason } from './opt-outs.ts';

export const IMPORT_FORMATS = ['csv', 'ndjson'] as const;
export type ImportFormat = (typeof IMPORT_FORMATS)[number];

/** The largest file that is taken. */
export const FILE_BYTES_MAX = 1024 ** 3;

/** `receiving` is not shown: a file that did not arrive completely is no import. */
export const IMPORT_STATES = [
  'awaiting_approval',
  'pending',
  'running',
  'done',
  'failed',
  'cancelled',
] as const;
export type ImportState = (typeof IMPORT_STATES)[number];

/** What applies to a row of a file that says nothing else. */
export type ImportDefaults = {
  readonly scopes: readonly Scope[] | undefined;
  readonly reason: Reason;
  /** Undefined: when the file was received. */
  readonly effectiveAt: Instant | undefined;
};

/** What rows are read by besides the import's own parameters: as it was configured where the file was received. */
export type ReadBy = DeclaredScopes & { readonly defaultRegion?: string | undefined };

export type NewImport = {
  readonly format: ImportFormat;
  readonly dryRun: boolean;
  readonly defaults: ImportDefaults;
  readonly readBy: ReadBy;
  readonly caller: Caller;
  /** Of the caller's key: a rotated key is the same key. */
  readonly lineage: string;
};

/** A file of opt-outs, and how far it is recorded. */
export type Import = Pick<NewImport, 'format' | 'dryRun' | 'defaults' | 'readBy'> & {
  readonly id: string;
  readonly client: string;
  readonly keyId: string;
  readonly lineage: string;
  readonly state: ImportState;
  readonly bytes: number;
  readonly rowsTotal: number;
  readonly rowsDone: number;
  readonly counts: ImportCounts;
  /** A row may have several; beyond the first hundred thousand only the count is kept. */
  readonly errorsFound: number;
  readonly receivedAt: Instant;
  readonly startedAt: Instant | undefined;
  readonly finishedAt: Instant | undefined;
  readonly approval: { readonly client: string; readonly keyId: string; readonly at: Instant } | undefined;
  readonly failure: string | undefined;
  /** The same file before, read otherwise: rows that were taken then count as `already`, whatever came after them. */
  readonly repeats: string | undefined;
};

/** Rows: `already` changed nothing, `invalid` could not be read. For a dry run, what they would be. */
export type ImportCounts = { readonly recorded: number; readonly already: number; readonly invalid: number };

export const ROW_ERROR_CODES = [
  'invalid',
  'missing',
  'too_far_ahead',
  'not_utf8',
  'not_json',
  'wrong_number_of_fields',
] as const;

/** Why a row was not taken; it never contains a value. */
export type RowError = {
  readonly row: number;
  /** Where the row begins in the file. */
  readonly line: number;
  /** Undefined: the row as a whole. */
  readonly column: string | undefined;
  readonly code: (typeof ROW_ERROR_CODES)[number];
};

/** A row that can be read: the identifiers of one person, each kind once, and what the person refuses. */
export type ImportRow = Pick<OptOutIntent, 'subjects' | 'scopes' | 'effectiveAt' | 'reason'> & {
  readonly row: number;
  readonly line: number;
};

/** Every row after `after` through `through`: each is either readable or has at least one error. */
export type ImportBatch = {
  readonly after: number;
  readonly through: number;
  readonly rows: readonly ImportRow[];
  readonly errors: readonly RowError[];
  /** How many rows were taken when the file came before. */
  readonly taken: number;
};

/** Files of opt-outs: kept sealed while they are received, and until they are recorded. */
export type Imports = {
  /** Begins to receive a file; gives its id. Throws AbideError('too-many-requests'). */
  begin(fields: NewImport): Promise<string>;
  /** Keeps the next piece, `n` from 0. */
  keep(id: string, n: number, piece: Buffer): Promise<void>;
  /**
   * The file is complete. It is the same import as one with the same file and parameters before, unless that failed or was
   * cancelled, or is done without some of its rows, which are read otherwise now: then those are tried again. An import of more
   * rows than `approveAbove` waits for an approval, unless it is a dry run.
   */
  submit(
    id: string,
    file: {
      readonly sha256: Buffer;
      readonly bytes: number;
      readonly rows: number;
      readonly approveAbove: number;
    },
  ): Promise<{ readonly import: Import; readonly isNew: boolean }>;
  /** For a file that did not arrive completely, or cannot be read; one that was submitted all the same stays. */
  abandon(id: string): Promise<void>;
  /** `client` undefined, here and below: any client's. */
  find(id: string, client: string | undefined): Promise<Import | undefined>;
  /** Newest first. Throws AbideError: invalid-value (cursor). */
  list(filter: {
    readonly client: string | undefined;
    readonly limit: number;
    readonly cursor: string | undefined;
    readonly state: ImportState | undefined;
  }): Promise<{ readonly imports: readonly Import[]; readonly nextCursor: string | undefined }>;
  /** By row. Throws AbideError: invalid-value (cursor). */
  errors(
    id: string,
    page: { readonly limit: number; readonly cursor: string | undefined },
  ): Promise<{ readonly errors: readonly RowError[]; readonly nextCursor: string | undefined }>;
  /** Throws AbideError: not-found, second-key-needed, import-not-waiting. */
  approve(id: string, caller: Caller, lineage: string): Promise<Import>;
  /** Throws AbideError: not-found, import-not-waiting. */
  cancel(id: string, client: string | undefined, caller: Caller): Promise<Import>;

  /** The oldest import that nobody carries; `holder` carries it from now on. */
  claim(holder: string): Promise<Import | undefined>;
  /** False: somebody else carries it. */
  renew(id: string, holder: string): Promise<boolean>;
  /** Leaves it to the next process that claims it. */
  release(id: string, holder: string): Promise<void>;
  /** The rows that an import did not take. */
  notTaken(id: string): Promise<ReadonlySet<number>>;
  /** Undefined: there are no more. */
  piece(id: string, n: number): Promise<Buffer | undefined>;
  /** Records a batch, and how far the import is with it; `before` is the batch before. False: another process carries it. */
  record(of: Import, holder: string, batch: ImportBatch, before: Promise<unknown>): Promise<boolean>;
  /**
   * `failure`: why the import cannot go on. Without one it is done, unless its file did not have the rows that were counted when it
   * was received: then it has failed. Undefined: another process carries it.
   */
  finish(id: string, holder: string, failure?: string): Promise<Import | undefined>;
  /** Whether live opt-outs wait to be recorded in this process: they go first. */
  isLiveWaiting(): boolean;
  /** Resolves when there may be something to claim, or after a while. */
  untilWaiting(signal: AbortSignal): Promise<void>;
};
