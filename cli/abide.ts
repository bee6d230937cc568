import { CommanderError, InvalidArgumentError } from 'commander';
import { EXIT, fail, printWhole } from './output.ts';
import { createProgram } from './program.ts';

printWhole();
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // `abide audit | head`: the reader has what they wanted, and a no stays one.
  if (error.code === 'EPIPE') process.exit(process.exitCode ?? EXIT.done);
  // On a full disk `abide gate >> log && ./send-newsletter` has to end there, and `abide audit > file` is not complete.
  fail(new Error('The output cannot be written.', { cause: error }));
});
// Such as a promise that nobody awaits, in a connector of the user's own. What runs until it is told to stop replaces this.
process.on('uncaughtException', fail);
try {
  const program = await createProgram(process.argv.slice(2));
  await program.parseAsync();
} catch (error) {
  if (error instanceof InvalidArgumentError) {
    process.stderr.write(`abide: ${error.message}\n`);
    process.exit(EXIT.usage);
  }
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? EXIT.done : EXIT.usage);
  fail(error);
}
