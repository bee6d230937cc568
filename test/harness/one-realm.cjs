// Jest runs suites in a context of their own, where `instanceof Error` denies what Node's core modules throw: a refused
// connection would be no Error. In production there is one realm, and here it shall look so.
const { TestEnvironment } = require('jest-environment-node');

module.exports = class OneRealm extends TestEnvironment {
  constructor(config, context) {
    super(config, context);
    const { Error: Inner, Function: InnerFunction } = this.global;
    const ordinary = InnerFunction.prototype[Symbol.hasInstance];
    Object.defineProperty(Inner, Symbol.hasInstance, {
      value(error) {
        return this === Inner ? Error.isError(error) : ordinary.call(this, error);
      },
    });
  }
};
