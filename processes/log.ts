import { pino } from 'pino';
import type { Log } from '../connectors/contract/connector.ts';
import { AbideError } from '../suppression/errors.ts';

/** Says nothing: for commands whose own output is what counts. */
export const quietLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};

/** What is kept while standard error takes nothing; later lines are lost. */
const UNWRITTEN_BYTES_MAX = 1024 ** 2;

/**
 * JSON lines on standard error. Errors appear as code, message and stack: a driver's error also carries the row that it
 * could not write, in `detail`, `where` or `parameters`, and those never leave.
 */
export function createLog(level: string): Log {
  const to = pino.destination({ dest: 2, sync: true, maxLength: UNWRITTEN_BYTES_MAX });
  // A full disk would otherwise be thrown at whoever logs, and the process ended by a warning. What it did not take is written before
  // the next line that it takes.
  to.on('error', () => undefined);
  // A line that has no place is refused without a try at those before it, and all that follow would be.
  to.on('drop', () => {
    to.write('');
  });
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      serializers: { error: describeError, err: describeError },
    },
    to,
  );
}

function describeError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const code = 'code' in error ? error.code : undefined;
  // A database's message may quote a value ("invalid input syntax for type …"); its code says enough.
  const isDatabase = 'severity' in error;
  // That something does not answer is expected, and tried again for as long as it is away: its code says it all.
  const isExpected = error instanceof AbideError || 'syscall' in error;
  return {
    name: error.name,
    ...(code === undefined ? {} : { code }),
    message: isDatabase ? 'the database refused a statement' : error.message,
    ...(isDatabase || isExpected ? {} : { stack: error.stack }),
    ...(error.cause === undefined ? {} : { cause: describeError(error.cause) }),
  };
}
