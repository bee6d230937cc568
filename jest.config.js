/** Run by test/run.ts, which knows what this machine has; `--experimental-vm-modules` is needed. */
export default {
  testEnvironment: '<rootDir>/test/harness/one-realm.cjs',
  roots: ['<rootDir>/test'],
  testMatch: ['**/*.test.ts'],
  extensionsToTreatAsEsm: ['.ts'],
  transform: { '\\.ts$': '<rootDir>/test/strip-types.cjs' },
  // What is published under these names; processes/load-connector.ts gives the first to a connector of the user's own.
  moduleNameMapper: {
    '^abide/client$': '<rootDir>/client/client.ts',
    '^abide/connector$': '<rootDir>/connectors/contract/connector.ts',
    '^abide/conformance$': '<rootDir>/test/conformance/connector.ts',
  },
  globalSetup: '<rootDir>/test/harness/start-postgres.ts',
  globalTeardown: '<rootDir>/test/harness/stop-postgres.ts',
  // Nothing goes by it but what hangs: how long something may take is for `npm run bench`, and machines differ.
  testTimeout: 180_000,
  watchman: false,
};
