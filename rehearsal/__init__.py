"""A whole estate on one machine: servers, services, shoppers, the story, the certificate."""
