/** A native addon stays in node_modules: a bundler can't take it in. */
export default { serverExternalPackages: ['vl-mamba'] };
