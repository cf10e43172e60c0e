"""The AWS side: the only room that imports boto3. Import from the defining module."""
