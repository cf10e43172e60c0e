"""The Lambda functions. A module without a leading underscore is a deployed function."""
